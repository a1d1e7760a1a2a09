"""How long a request was in the queue and worked on."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add two columns; of older attempts nobody knows."""
    op.add_column("attempts", sa.Column("queue_seconds", sa.Float))
    op.add_column("attempts", sa.Column("generation_seconds", sa.Float))
