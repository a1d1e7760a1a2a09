"""The shards of a run that several workers share."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add a table; runs of before were not cut."""
    op.create_table(
        "shards",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("of", sa.Integer, nullable=False),
        sa.Column("began", _TIME, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("flow_run_id", sa.String),
        sa.Column("holder", sa.String),
        sa.Column("held_until", _TIME),
        sa.Column("progress", sa.JSON),
        sa.Column("entries", sa.JSON),
        sa.Column("ended_at", _TIME),
    )
