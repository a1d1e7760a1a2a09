"""Indexes that hold all that a budget's sum reads; sizes of files above 2 GB on PostgreSQL."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_SUMMED = ["state", "error_kind", "cost_usd", "reserved_usd", "estimate_usd"]


def upgrade() -> None:
    """Make both indexes anew."""
    of_day = ["pipeline", "claimed_at", "origin", "account"]
    for name, columns in (("attempts_by_run", ["run_id"]), ("attempts_by_day", of_day)):
        op.drop_index(name, "attempts")
        op.create_index(name, "attempts", columns + _SUMMED)
    if op.get_context().dialect.name == "postgresql":
        op.alter_column("outputs", "bytes", type_=sa.BigInteger)
