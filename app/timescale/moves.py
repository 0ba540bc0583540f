"""Data migrations: files that change rows and no schema, batch by batch, each batch a short transaction of its own.

How far it is stands in the table `migration_progress`, written with each batch, so one that is cut off goes on from
there. The table is there only as long as a data migration is under way.

Migration files import DataMigrationManager: its module path must never change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.engine import Engine, find_engine
from app.errors import MigrationRefused
from app.timescale.expressions import find_assigned
from app.timescale.journal import Event, hold_lock, is_done, write_entry
from app.timescale.manager import TimescaleMigrationManager, set_lock_timeout
from app.timescale.steps import LOCK_TIMEOUT, Hold, Lock, Step, Work, describe_step
from app.timescale.tape import write_literal
from app.timescale.tokens import quote_name, quote_text

BATCH = "{batch}"
# Where positions come into a statement that the server fills in: by a character that no statement has.
FIRST, NEXT = "\0" + "1$s", "\0" + "2$s"

_CREATE = """
CREATE TABLE IF NOT EXISTS migration_progress (
  migration text PRIMARY KEY, event text NOT NULL, move int NOT NULL, position text NOT NULL, rows_done bigint NOT NULL
)
"""
_UPDATE = "event = EXCLUDED.event, move = EXCLUDED.move, position = EXCLUDED.position, rows_done = EXCLUDED.rows_done"


@dataclass(frozen=True)
class Move:
    """`forwards` and `backwards` are statements on the rows of `table` that `{batch}` selects, `rows` at a time."""

    table: str
    key: tuple[str, ...]
    forwards: str
    backwards: str
    rows: int

    @property
    def quoted_table(self) -> str:
        """Its name as in SQL."""
        return quote_name(self.table)

    @property
    def _columns(self) -> str:
        return ", ".join(map(quote_name, self.key))

    @property
    def first_query(self) -> str:
        """Finds the position of the first row."""
        return f"SELECT {self._position} FROM {self.quoted_table} ORDER BY {self._columns} LIMIT 1"

    def next_query(self, position: str) -> str:
        """Finds the position that is a batch further; none where less than a batch is left."""
        return (
            f"SELECT {self._position} FROM {self.quoted_table} WHERE ({self._columns}) > {position} "
            f"ORDER BY {self._columns} OFFSET {self.rows - 1} LIMIT 1"
        )

    def fill(self, statement: str, first: str, until: str | None) -> str:
        """The statement for the rows from one position up to another, or to the end."""
        bounds = [f"({self._columns}) >= {first}", *([f"({self._columns}) < {until}"] if until else [])]
        return statement.replace(BATCH, " AND ".join(bounds))

    @property
    def _position(self) -> str:
        """A row of literals, which take the types of the columns that they're compared with."""
        literals = ", ".join("%L" for _ in self.key)
        return f"format('({literals})', {self._columns})"

    def make_loop(self, statement: str, migration_id: str, event: Event, number: int) -> str:
        """One statement that does what is left of it in SQL, a transaction a batch, for where no Python runs.

        It keeps the same account of how far it is, so that either may go on where the other was cut off.
        """
        name, keys = write_literal(migration_id), ", ".join(map(write_literal, self.key))
        table = write_literal(self.quoted_table)
        body = f"""
DECLARE
  stored record;
  first text;
  next text;
  done bigint := 0;
BEGIN
  IF (SELECT count(*) FROM pg_attribute WHERE attrelid = {table}::regclass AND attnotnull AND NOT attisdropped
      AND attname IN ({keys})) < {len(self.key)} THEN
    RAISE EXCEPTION 'The data migration % walks over % by columns that must be there and NOT NULL.', {name}, {table};
  END IF;
  {_CREATE.strip()};
  SELECT move, position, rows_done INTO stored FROM migration_progress WHERE migration = {name} AND event = '{event.value}';
  IF stored.move > {number} THEN
    RETURN;
  ELSIF stored.move = {number} AND stored.position <> '' THEN
    first := stored.position;
    done := stored.rows_done;
  ELSE
    EXECUTE {quote_text(self.first_query, "query")} INTO first;
  END IF;
  WHILE first IS NOT NULL LOOP
    PERFORM set_config('lock_timeout', '{LOCK_TIMEOUT // timedelta(milliseconds=1)}', true);
    EXECUTE {_write_format(self.next_query(FIRST))} INTO next;
    IF next IS NULL THEN
      EXECUTE {_write_format(self.fill(statement, FIRST, None))};
    ELSE
      EXECUTE {_write_format(self.fill(statement, FIRST, NEXT))};
    END IF;
    done := done + {self.rows};
    INSERT INTO migration_progress VALUES (
      {name}, '{event.value}', {number} + (next IS NULL)::int, coalesce(next, ''), CASE WHEN next IS NULL THEN 0 ELSE done END
    ) ON CONFLICT (migration) DO UPDATE SET {_UPDATE};
    COMMIT;
    first := next;
  END LOOP;
END
"""
        return f"DO {quote_text(body, 'aurum')}"


def _write_format(text: str) -> str:
    """SQL that puts the variables `first` and `next` into their places of a text, both in one pass.

    They come from rows: where one was put in after the other, it could hold what stands for the other's place.
    """
    template = text.replace("%", "%%").replace("\0", "%")
    return f"format({quote_text(template, 'query')}, first, next)"


class DataMigrationManager(TimescaleMigrationManager):
    """One data migration. `on_progress` is told how many rows are done, of about how many."""

    def __init__(self, migration_id: str, app_name: str, description: str) -> None:
        super().__init__(migration_id=migration_id, app_name=app_name, description=description)
        self.wrap_in_transaction = False
        self.moves: list[Move] = []
        self.on_progress: Callable[[int, int], None] = lambda *_: None

    def move_rows(self, table: str, key: tuple[str, ...], forwards: str, backwards: str, *, rows: int = 10_000) -> None:
        """Walks over a table in the order of `key`, NOT NULL columns with an index, `rows` at a time.

        Each statement has `{batch}` in its WHERE and must bear to be run twice; an empty `backwards` leaves the rows as they
        are. Rows that come in meanwhile behind the walk are not seen: let the code write them as they should be first.
        """
        for name, statement in (("forwards", forwards), ("backwards", backwards)):
            if statement and BATCH not in statement:
                raise MigrationRefused(f"{name} of the move over {table} must have {BATCH} in its WHERE: {statement}")
            if changed := sorted(find_assigned(statement.replace(BATCH, "true")) & set(key)):
                raise MigrationRefused(
                    f"{name} of the move over {table} changes {', '.join(changed)}, by which it walks: rows would come up "
                    "again, or never."
                )
        if not key or rows < 1:
            raise MigrationRefused(f"The move over {table} needs key columns and at least one row a batch.")
        self.moves.append(Move(table, key, forwards, backwards, rows))

    async def run(self, backwards: bool = False) -> None:
        """Runs what is left of it, unless it is done already; with Piccolo's --preview, shows it."""
        if self.preview:
            for step in await self.list_steps(backwards=backwards):
                print(f"\n{describe_step(step)}\n{step.sql};")  # noqa: T201 - Piccolo's preview prints
            return
        if self.raw or self.raw_backwards or await super().list_steps() or await super().list_steps(backwards=True):
            raise MigrationRefused(
                f"The data migration {self.migration_id} changes the schema as well: make two migrations of it."
            )
        event = Event.REVERSED if backwards else Event.APPLIED
        began = time.monotonic()
        async with hold_lock(find_engine()) as connection:
            if await is_done(connection, self.migration_id, event):
                return  # and its row in Piccolo's table stays, as in any other migration
            await self._require_keys(connection)
            await self._walk_all(connection, event)
            async with connection.transaction():
                took = timedelta(seconds=time.monotonic() - began)
                await write_entry(connection, self.migration_id, event, self._compute_checksum(), took)
                await connection.execute("DROP TABLE IF EXISTS migration_progress")

    async def rehearse(self, engine: Engine, *, hypertables: bool) -> None:
        """Nothing: it makes no schema."""

    async def list_steps(self, *, backwards: bool = False) -> list[Step]:
        """A statement for each move that does all of it by itself, in batches as `run` does."""
        event = Event.REVERSED if backwards else Event.APPLIED
        return [
            Step(
                move.make_loop(statement, self.migration_id, event, number),
                (Hold(move.table, Lock.ROW_EXCLUSIVE),),
                transactional=False,
                work=Work.GROWS,
            )
            for number, (move, statement) in enumerate(self._choose(backwards))
        ]

    def _choose(self, backwards: bool) -> list[tuple[Move, str]]:
        if backwards:
            return [(move, move.backwards) for move in reversed(self.moves) if move.backwards]
        return [(move, move.forwards) for move in self.moves]

    async def _require_keys(self, connection: Any) -> None:
        for move in self.moves:
            known = await connection.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(quote_ident($1)) AND attnotnull "
                "AND NOT attisdropped",
                move.table,
            )
            if missing := set(move.key) - {row["attname"] for row in known}:
                raise MigrationRefused(
                    f"The data migration {self.migration_id} walks over {move.table} by {', '.join(sorted(missing))}, "
                    "which must be there and NOT NULL."
                )

    async def _walk_all(self, connection: Any, event: Event) -> None:
        await connection.execute(_CREATE)
        stored = await connection.fetchrow(
            "SELECT move, position, rows_done FROM migration_progress WHERE migration = $1 AND event = $2",
            self.migration_id,
            event.value,
        )
        for number, (move, statement) in enumerate(self._choose(event is Event.REVERSED)):
            if stored is not None and number < stored["move"]:
                continue
            resumed = stored is not None and number == stored["move"]
            position = (resumed and stored["position"]) or await connection.fetchval(move.first_query)
            done = stored["rows_done"] if resumed else 0
            total = await connection.fetchval(f"SELECT count(*) FROM {move.quoted_table}")
            while position is not None:
                position = await self._walk_once(connection, event, number, move, statement, position, done)
                done = total if position is None else done + move.rows
                self.on_progress(min(done, total), total)

    async def _walk_once(
        self, connection: Any, event: Event, number: int, move: Move, statement: str, position: str, done: int
    ) -> str | None:
        """Changes the rows of one batch and says so in the same transaction; returns where the next one begins."""
        async with connection.transaction():
            await set_lock_timeout(connection)
            following: str | None = await connection.fetchval(move.next_query(position))
            await connection.execute(move.fill(statement, position, following))
            await connection.execute(
                f"INSERT INTO migration_progress VALUES ($1, $2, $3, $4, $5) ON CONFLICT (migration) DO UPDATE SET {_UPDATE}",
                self.migration_id,
                event.value,
                number + (following is None),
                following or "",
                0 if following is None else done + move.rows,
            )
        return following


async def read_progress(connection: Any) -> list[tuple[str, int]]:
    """The data migrations that are under way or were cut off, and how many rows of the table they are at are done."""
    if not await connection.fetchval("SELECT to_regclass('migration_progress') IS NOT NULL"):
        return []
    rows = await connection.fetch("SELECT migration, rows_done FROM migration_progress ORDER BY migration")
    return [(row["migration"], row["rows_done"]) for row in rows]


async def read_rows_done(connection: Any, migration_id: str, event: Event) -> int:
    """How many rows of its present table a data migration has behind it that was cut off; 0 where none was."""
    if not await connection.fetchval("SELECT to_regclass('migration_progress') IS NOT NULL"):
        return 0
    rows: int | None = await connection.fetchval(
        "SELECT rows_done FROM migration_progress WHERE migration = $1 AND event = $2", migration_id, event.value
    )
    return rows or 0
