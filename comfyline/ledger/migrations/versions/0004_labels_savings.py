"""Whose an attempt is by the pipeline's labels, and what a run did not pay again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add to the third schema; older attempts have no labels."""
    op.add_column("attempts", sa.Column("labels", sa.JSON))
    op.create_index("attempts_by_claim", "attempts", ["claimed_at"])
    op.create_table(
        "savings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("model_id", sa.String, nullable=False),
        sa.Column("labels", sa.JSON),
        sa.Column("reused", sa.Integer, nullable=False),
        sa.Column("taken_over", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Float, nullable=False),
        sa.Column("cost_unknown", sa.Integer, nullable=False),
    )
    op.create_index("ix_savings_run_id", "savings", ["run_id"])
