"""AurumAI's tables and migrations, as Piccolo's commands find them."""

from pathlib import Path

from piccolo.conf.apps import AppConfig, table_finder

APP_CONFIG = AppConfig(
    app_name="app",
    migrations_folder_path=str(Path(__file__).parent.parent / "piccolo_migrations"),
    table_classes=table_finder(["app.tables"]),
    migration_dependencies=[],
    commands=[],
)
