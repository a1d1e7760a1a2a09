"""Runs know when they ended with everything there."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    op.add_column("runs", sa.Column("completed_at", sa.DateTime(timezone=True)))
