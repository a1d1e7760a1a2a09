"""Who works on a job, runs that can be told to stop, reservations, and evidence for doubts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Extend the first schema; what older attempts do not know stays null."""
    op.add_column("jobs", sa.Column("held_by", sa.String))
    op.add_column("jobs", sa.Column("held_until", _TIME))
    op.create_index("jobs_by_holder", "jobs", ["held_by"])
    op.add_column("attempts", sa.Column("claimed_at", _TIME))
    op.add_column("attempts", sa.Column("reserved_usd", sa.Float))
    op.add_column("attempts", sa.Column("evidence", sa.JSON))
    op.create_index("attempts_by_request", "attempts", ["request_id"], unique=True)
    op.create_index("attempts_by_run", "attempts", ["run_id"])
    op.create_index("attempts_by_day", "attempts", ["pipeline", "claimed_at"])
    op.create_table(
        "runs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("stopped_at", _TIME),
    )
