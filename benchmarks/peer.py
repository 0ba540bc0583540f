"""The stack that one would reach for: FastAPI, SQLAlchemy 2 with asyncpg, one insert and one commit per POST.

Written as its documentation shows it, over the same table as ours. DATABASE_URL names the database.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import AwareDatetime, BaseModel
from sqlalchemy import DateTime, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# As many connections as ours may have; SQLAlchemy's own default is half of it.
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=10, max_overflow=0
)
make_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class RawMeasurement(Base):
    __tablename__ = "raw_measurements"

    machine_id: Mapped[str] = mapped_column(primary_key=True)
    timestamp: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    metrics: Mapped[dict[str, float]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Reading(BaseModel):
    machine_id: str
    timestamp: AwareDatetime
    metrics: dict[str, float]


async def open_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


app = FastAPI()


@app.post("/ingest")
async def ingest(reading: Reading, session: Annotated[AsyncSession, Depends(open_session)]) -> dict[str, int]:
    session.add(RawMeasurement(**reading.model_dump()))
    await session.commit()
    return {"accepted": 1}
