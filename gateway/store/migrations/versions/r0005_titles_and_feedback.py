"""Adds titles, users' feedback, and an index to list conversations by their user."""

import sqlalchemy as sa
from alembic import op

revision = "0005_from_0004"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("title", sa.Text))
    op.create_index("conversations_of_user", "conversations", ["user_id", "created_at", "id"])
    op.add_column("turns", sa.Column("feedback", sa.Text))
    op.add_column("turns", sa.Column("feedback_comment", sa.Text))


def downgrade() -> None:
    op.drop_column("turns", "feedback_comment")
    op.drop_column("turns", "feedback")
    op.drop_index("conversations_of_user", "conversations")
    op.drop_column("conversations", "title")
