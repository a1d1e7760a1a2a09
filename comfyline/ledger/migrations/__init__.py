"""The history of the ledger's tables (alembic). Only ever added to."""
