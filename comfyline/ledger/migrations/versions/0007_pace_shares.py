"""When an account's next submission may leave, and for whom jobs wait for a slot."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add tables; what has been in doubt so far holds no slot."""
    op.create_table(
        "paces",
        sa.Column("origin", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("next_at", _TIME, nullable=False),
        sa.Column("noted_at", _TIME, nullable=False),
    )
    op.create_table(
        "waiting",
        sa.Column("origin", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("worker_id", sa.String, primary_key=True),
        sa.Column("share", sa.Text, primary_key=True),
        sa.Column("waits_until", _TIME, nullable=False),
    )
    op.execute("UPDATE attempts SET slot_until = NULL WHERE state = 'in_doubt'")
