"""The shared facts of all processes: one SQL database, SQLite by default and PostgreSQL by URL (architecture.md, 7)."""
