"""Conversations and their turns, with a view that shows the turns as messages."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# A turn's answer is a message once there is something of it, or its turn ended with nothing. No message is older than
# its turn, even if the clock went back meanwhile.
MESSAGES = """
CREATE VIEW messages AS
SELECT id || '.user' AS id, id AS turn_id, conversation_id, ordinal, 'user' AS role,
       message AS content, 'completed' AS status, created_at
FROM turns
UNION ALL
SELECT id || '.assistant', id, conversation_id, ordinal, 'assistant', content, status,
       CASE WHEN answered_at < created_at THEN created_at ELSE answered_at END
FROM turns WHERE answered_at IS NOT NULL
"""


def upgrade() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("shop_id", sa.Text),
        sa.Column("bot_id", sa.Text, nullable=False),
        sa.Column("coze_conversation_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "turns",
        sa.Column("ordinal", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column(
            "conversation_id",
            sa.Text,
            sa.ForeignKey("conversations.id", name="turns_conversation"),
            nullable=False,
        ),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("shop_id", sa.Text),
        sa.Column("bot_id", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("answered_at", sa.Double),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("suggestions", sa.JSON, nullable=False),
        sa.Column("usage", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("coze_chat_id", sa.Text, nullable=False),
        sa.Column("coze_conversation_id", sa.Text, nullable=False),
        sa.Column("position", sa.Text, nullable=False),
        sa.Column("tool_calls", sa.JSON, nullable=False),
    )
    op.create_index("turns_id", "turns", ["id"], unique=True)
    op.create_index("turns_of_conversation", "turns", ["conversation_id", "ordinal"])
    op.execute(MESSAGES)


def downgrade() -> None:
    op.execute("DROP VIEW messages")
    op.drop_table("turns")
    op.drop_table("conversations")
