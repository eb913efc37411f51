"""Adds which of Coze's names for a conversation is the newest, and a digest by which a turn's question is found."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("naming", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE conversations SET naming = 1 WHERE coze_conversation_id <> ''")
    op.add_column("turns", sa.Column("digest", sa.Text, nullable=False, server_default=sa.text("''")))
    asked = sa.text("digest <> ''")
    op.create_index("turns_digest", "turns", ["digest"], sqlite_where=asked, postgresql_where=asked)


def downgrade() -> None:
    op.drop_index("turns_digest")
    op.drop_column("turns", "digest")
    op.drop_column("conversations", "naming")
