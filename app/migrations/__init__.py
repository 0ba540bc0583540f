"""Applying migrations, and knowing whether a database is where the code expects it. The files are in piccolo_migrations/."""
