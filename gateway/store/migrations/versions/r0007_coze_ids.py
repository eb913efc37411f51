"""Adds an index to find conversations by Coze's ids of them, with which the callers of Coze's own door come."""

import sqlalchemy as sa
from alembic import op

revision = "0007_from_0004"
down_revision = "0006_from_0004"

_NAMED = sa.text("coze_conversation_id <> ''")


def upgrade() -> None:
    op.create_index(
        "conversations_named",
        "conversations",
        ["coze_conversation_id"],
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    )


def downgrade() -> None:
    op.drop_index("conversations_named", "conversations")
