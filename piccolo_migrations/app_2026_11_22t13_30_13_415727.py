import datetime
from app.timescale.hypertable import Hypertable
from app.timescale.manager import TimescaleMigrationManager

ID = "2026-11-22T13:30:13:415727"
DESCRIPTION = "Keep features in a hypertable"


async def forwards():
    manager = TimescaleMigrationManager(
        migration_id=ID, app_name="app", description=DESCRIPTION
    )

    # migrate-lint: allow moves-rows because no release has put rows into features before this
    manager.alter_hypertable(
        tablename="features",
        old=None,
        new=Hypertable(
            time_column="timestamp",
            chunk_interval=datetime.timedelta(days=7),
            default_indexes=False,
            compression=None,
            retention=None,
            aggregates=(),
        ),
    )

    return manager
