"""The database's tables. Migrations create them; a test checks that both agree."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    column,
    false,
    table,
    text,
)

REVISION = "0008_from_0004"
"""The newest migration. Known here too, so that a start on a current database need not import Alembic (0.3 s)."""

metadata = MetaData()

conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("shop_id", Text),
    Column("bot_id", Text, nullable=False),
    Column("coze_conversation_id", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("naming", Integer, nullable=False, server_default="0"),
    Column("title", Text),
    Column("titled_at", Double),
    Index("conversations_of_user", "user_id", "created_at", "id"),
    # Partial on PostgreSQL, too, as that of digests below.
    Index("conversations_named", "coze_conversation_id", sqlite_where=text("coze_conversation_id <> ''")),
    sqlite_with_rowid=False,
)

_json = JSON(none_as_null=True)
_ASKED = text("digest <> ''")

# `ordinal` orders a conversation's turns: unlike the clock, it neither repeats nor goes back.
# `digest` is the same for the same user and body.
# `feedback` is the user's opinion of the answer, NULL while there is none. `rated_at` is when it was given, as
# `titled_at` is for a title: by PostgreSQL's clock, and NULL on SQLite, where no other node writes.
# `answered_at` is when the answer's first piece, or the turn's end, was stored; until then there is no answer.
turns = Table(
    "turns",
    metadata,
    Column("ordinal", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", Text, nullable=False),
    Column("conversation_id", Text, ForeignKey("conversations.id", name="turns_conversation"), nullable=False),
    Column("user_id", Text, nullable=False),
    Column("shop_id", Text),
    Column("bot_id", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("answered_at", Double),
    Column("status", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("reasoning", Text, nullable=False),
    Column("suggestions", _json, nullable=False),
    Column("usage", _json),
    Column("error", _json),
    Column("coze_chat_id", Text, nullable=False),
    Column("coze_conversation_id", Text, nullable=False),
    Column("position", Text, nullable=False),
    Column("tool_calls", _json, nullable=False),
    Column("digest", Text, nullable=False, server_default=text("''")),
    Column("recovered", Boolean, nullable=False, server_default=false()),
    Column("feedback", Text),
    Column("feedback_comment", Text),
    Column("rated_at", Double),
    Column("awaiting_reply", Boolean, nullable=False, server_default=false()),
    Index("turns_id", "id", unique=True),
    Index("turns_of_conversation", "conversation_id", "ordinal"),
    # On PostgreSQL the index is partial, too, as its migration says. To say so here would import that dialect each
    # time.
    Index("turns_digest", "digest", sqlite_where=_ASKED),
)

# A view over `turns`, so that nothing is written twice: a turn is one or two messages.
messages = table(
    "messages",
    column("id", Text),
    column("turn_id", Text),
    column("conversation_id", Text),
    column("ordinal", BigInteger),
    column("role", Text),
    column("content", Text),
    column("status", Text),
    column("created_at", Double),
)
