"""${message}."""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """What an older ledger lacks; never anything taken away."""
    ${upgrades if upgrades else "pass"}
