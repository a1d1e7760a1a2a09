"""For how long RunComfy worked on a request."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add a column; of older attempts nobody knows."""
    op.add_column("attempts", sa.Column("generation_seconds", sa.Float))
