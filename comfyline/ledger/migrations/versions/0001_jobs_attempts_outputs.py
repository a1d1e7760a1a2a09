"""Jobs, their attempts, the states these reached, and what was stored."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the first schema."""
    op.create_table(
        "jobs",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("model_id", sa.String, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(64), sa.ForeignKey("jobs.key"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("owner", sa.String),
        sa.Column("lease_until", _TIME),
        sa.Column("slot_until", _TIME),
        sa.Column("request_id", sa.String(128)),
        sa.Column("estimate_usd", sa.Float),
        sa.Column("cost_usd", sa.Float),
        sa.Column("error_kind", sa.String),
        sa.Column("error_message", sa.Text),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("submitted_at", _TIME),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.UniqueConstraint("key", "number"),
    )
    op.create_index("attempts_by_state", "attempts", ["state"])
    op.create_table(
        "transitions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("attempt_id", sa.Integer, sa.ForeignKey("attempts.id"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_index("ix_transitions_attempt_id", "transitions", ["attempt_id"])
    op.create_table(
        "outputs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("attempt_id", sa.Integer, sa.ForeignKey("attempts.id"), nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("uri", sa.String, nullable=False, unique=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("media_type", sa.String, nullable=False),
    )
    op.create_index("ix_outputs_attempt_id", "outputs", ["attempt_id"])
