"""Adds whether a turn ended with a question of the bot, so that its last event is the same when it is told again."""

import sqlalchemy as sa
from alembic import op

revision = "0006_from_0004"
down_revision = "0005_from_0004"


def upgrade() -> None:
    op.add_column("turns", sa.Column("awaiting_reply", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("turns", "awaiting_reply")
