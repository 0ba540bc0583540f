"""What is wrong with the migration files, found without a database: what TimescaleDB will refuse, what locks, what is lost."""
