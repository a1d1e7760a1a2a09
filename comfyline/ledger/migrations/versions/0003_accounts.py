"""Whose an attempt is, holds by account, and what tells a ledger from one made anew."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add to the second schema; whose older attempts are is told by what answers for them."""
    op.add_column("attempts", sa.Column("origin", sa.String))
    op.add_column("attempts", sa.Column("account", sa.String))
    op.add_column("attempts", sa.Column("profile", sa.Text))
    op.add_column("attempts", sa.Column("missing_since", _TIME))
    op.add_column("runs", sa.Column("origin", sa.String))
    op.add_column("runs", sa.Column("account", sa.String))
    # Two origins may give the same id.
    op.drop_index("attempts_by_request", "attempts")
    op.create_index("attempts_by_request", "attempts", ["request_id", "origin"], unique=True)
    op.create_table(
        "holds",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("origin", sa.String, primary_key=True),
        sa.Column("account", sa.String, primary_key=True),
        sa.Column("held_by", sa.String, nullable=False),
        sa.Column("held_until", _TIME, nullable=False),
    )
    op.create_index("ix_holds_held_by", "holds", ["held_by"])
    op.create_table(
        "journals",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("compared", sa.JSON, nullable=False),
    )
    table = op.create_table("ledger", sa.Column("id", sa.String(32), primary_key=True))
    op.execute(sa.insert(table).values(id=uuid.uuid4().hex))
