"""Adds when titles and feedback were given: a node that writes them again, after a loss, replaces nothing newer."""

import sqlalchemy as sa
from alembic import op

revision = "0008_from_0004"
down_revision = "0007_from_0004"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("titled_at", sa.Double))
    op.add_column("turns", sa.Column("rated_at", sa.Double))


def downgrade() -> None:
    op.drop_column("turns", "rated_at")
    op.drop_column("conversations", "titled_at")
