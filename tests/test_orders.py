"""Orders: what makes two requests the same one, and the note that survives."""

import msgspec
import pytest
from msgspec.structs import replace

from gateway.orders import Note, Order, read_note
from gateway.turn import Memory

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
        ("attachments", ({"type": "image", "url": "http://x"},)),
    ):  # fmt: skip
        assert replace(ORDER, **{field: value}).digest() != ORDER.digest(), field


def test_a_note_comes_back_as_it_was_packed() -> None:
    note = Note(
        ORDER, "conv_1", 12.5, stage="taken", coze_conversation_id="c", memory=Memory("chat"), outputs=[("a", "b")]
    )
    assert read_note(note.pack()) == note
    with pytest.raises(msgspec.DecodeError):
        read_note(b"\xc1")
