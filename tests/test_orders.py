"""Orders: what makes two requests the same one, and the note that survives."""

import msgspec
import pytest
from msgspec.structs import replace

from gateway.turns.orders import Keeping, Note, Order, read_note
from gateway.turns.turn import Memory

ORDER = Order(
    user_id="u", bot_id="b", message="m", shop_id="s", custom_variables={"a": "1", "b": "2"}, idempotency_key="k"
)


def test_a_mark_is_of_the_user_the_shop_and_the_key_alone() -> None:
    assert ORDER.mark() == replace(ORDER, message="else", bot_id="else", language="zh").mark()
    others = [replace(ORDER, user_id="v"), replace(ORDER, shop_id="t"), replace(ORDER, idempotency_key="l")]
    assert len({ORDER.mark(), *(other.mark() for other in others)}) == 4
    assert replace(ORDER, idempotency_key="").mark() == ""


def test_parts_of_a_mark_cannot_be_shifted_into_one_another() -> None:
    assert replace(ORDER, user_id="ab", shop_id="c").mark() != replace(ORDER, user_id="a", shop_id="bc").mark()


def test_a_digest_is_of_the_body_whatever_its_order_the_language_and_the_key() -> None:
    same = replace(ORDER, custom_variables={"b": "2", "a": "1"}, language="zh", idempotency_key="other")
    assert ORDER.digest() == same.digest()
    for field, value in (
        ("message", "n"), ("bot_id", "c"), ("conversation_id", "conv_1"), ("on_busy", "queue"),
        ("on_disconnect", "cancel"), ("custom_variables", {"a": "1"}), ("meta_data", {"a": "1"}),
        ("attachments", ({"type": "image", "url": "http://x"},)), ("context", ({"role": "user", "content": "x"},)),
        ("shortcut_command", {"commandId": "7"}), ("enable_card", False), ("auto_save_history", False),
        ("workflow_id", "w"), ("app_id", "a"), ("parameters", {"a": 1}),
    ):  # fmt: skip
        assert replace(ORDER, **{field: value}).digest() != ORDER.digest(), field


def test_a_note_comes_back_as_it_was_packed() -> None:
    note = Note(
        ORDER, "conv_1", 12.5, stage="taken", coze_conversation_id="c", memory=Memory("chat"), outputs=[("a", "b")]
    )
    assert read_note(note.pack()) == note
    with pytest.raises(msgspec.DecodeError):
        read_note(b"\xc1")


def test_a_note_is_kept_by_what_is_new_in_it() -> None:
    note = Note(ORDER, "conv_1", 12.5)
    keeping, kept = Keeping(note), note.pack()
    assert keeping.news(note) == b""
    for step in range(1, 2000):
        note.memory.seen.append(f"{10**18 + step}")
        note.memory.answers = [*note.memory.answers, (str(step), 3 * step)]
        if step == 7:
            note.stage, note.memory.chat_id, note.memory.coze_conversation_id = "taken", "chat", "coze"
            note.coze_conversation_id, note.naming, note.announced, note.outputs = "coze", 2, True, [("a", "b")]
        if step == 9:
            note.outputs, note.memory.answers = [], [("1", 0), ("5", 12)]
        news = keeping.news(note)
        assert len(news) < 250
        kept += news
    assert read_note(kept) == note
    assert read_note(msgspec.msgpack.encode(note)) == note  # as it was written before


@pytest.mark.parametrize("cut", [1, 4, 30, -1])
def test_a_note_that_is_cut_is_none(cut: int) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_note(Note(ORDER, "conv_1", 12.5).pack()[:cut])
