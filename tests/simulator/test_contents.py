"""What a chat says under a fault plan, and what is mixed into it."""

import itertools
import json
import re
from typing import Any

import pytest

from gateway.simulator import whole_text
from gateway.simulator.disturbance import GHOST
from tests.simulator.caller import Caller, Record, deltas

QUESTION = "你好"


async def answers_of(caller: Caller, records: list[Record]) -> list[dict[str, Any]]:
    return [m for m in await caller.messages(records[0][1]) if m["type"] == "answer"]


def completed(records: list[Record], kind: str = "answer") -> list[dict[str, Any]]:
    return [data for event, data in records if event == "conversation.message.completed" and data["type"] == kind]


async def test_pieces_echo_and_plain_say_exactly_what_is_asked(caller: Caller) -> None:
    records = await caller.records("/fault pieces:7 x")
    assert sum(event == "conversation.message.delta" for event, _ in records) == 7
    assert deltas(await caller.records("/fault echo Say *this*, 请！")) == "Say *this*, 请！"
    assert whole_text("/fault echo ") == ""


async def test_a_plan_that_breaks_only_the_stream_leaves_the_answer_as_it_is_without(caller: Caller) -> None:
    for faults in ("drop-after:3", "crlf", "doubled", "retrieve-500:1", "malformed bytes"):
        assert whole_text(f"/fault {faults} {QUESTION}") == whole_text(QUESTION)


async def test_clock_says_when_each_piece_is_due(caller: Caller) -> None:
    records = await caller.records("/fault clock pieces:5 rate:100 first:10 x")
    times = [float(data["content"]) for event, data in records if event == "conversation.message.delta"]
    assert len(times) == 5
    steps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert steps == pytest.approx([0.01] * 4, abs=1e-4)
    assert abs(times[0] - records[0][1]["created_at"]) < 2
    assert completed(records)[0]["content"] == "".join(f"{at:.6f} " for at in times)


async def test_reasoning_comes_first_with_the_answer_s_id_and_is_not_in_the_record(caller: Caller) -> None:
    records = await caller.records(f"/fault reasoning {QUESTION}")
    pieces = [data for event, data in records if event == "conversation.message.delta"]
    reasons = [data for data in pieces if "reasoning_content" in data]
    assert len(reasons) > 10
    assert pieces[: len(reasons)] == reasons
    assert all(data["content"] == "" for data in reasons)
    assert pieces[len(reasons)]["content"] == "\n\n"
    assert len({data["id"] for data in pieces}) == 1
    assert "reasoning_content" not in completed(records)[0]


async def test_a_search_is_a_recall_a_call_and_its_answer_with_ids_above_2_to_the_53(caller: Caller) -> None:
    records = await caller.records(f"/fault tool {QUESTION}")
    kinds = [data["type"] for event, data in records if event == "conversation.message.completed"]
    assert kinds == ["verbose", "function_call", "tool_response", "answer", "verbose", *["follow_up"] * 3]
    call = json.loads(completed(records, "function_call")[0]["content"])
    assert call["arguments"] == {"query": QUESTION}
    assert call["plugin_id"] > 2**53
    recall = json.loads(completed(records, "verbose")[0]["content"])
    assert recall["msg_type"] == "knowledge_recall"
    assert json.loads(recall["data"])["chunks"]


async def test_several_answers_have_ids_of_their_own_and_a_card_between_has_no_pieces(caller: Caller) -> None:
    records = await caller.records(f"/fault multi plain {QUESTION}")
    first, card, second = completed(records)
    assert [first["content_type"], card["content_type"], second["content_type"]] == ["text", "card", "text"]
    assert len({first["id"], card["id"], second["id"]}) == 3
    assert json.loads(card["content"])["response_type"] == "card"
    shown = {data["id"] for event, data in records if event == "conversation.message.delta"}
    assert shown == {first["id"], second["id"]}
    assert whole_text(f"/fault multi plain {QUESTION}") == f"{first['content']}\n\n{second['content']}"


async def test_card_only_audio_only_and_empty_have_no_text(caller: Caller) -> None:
    for faults, answers, sounds in (("card-only", 1, 0), ("audio-only", 0, 4), ("empty", 0, 0)):
        records = await caller.records(f"/fault {faults} {QUESTION}")
        events = [event for event, _ in records]
        assert "conversation.message.delta" not in events
        assert len(completed(records)) == answers
        assert events.count("conversation.audio.delta") == sounds
        assert events[-1] == "done"
        assert len(await answers_of(caller, records)) == answers


async def test_half_of_the_audio_comes_after_completed(caller: Caller) -> None:
    events = [event for event, _ in await caller.records(f"/fault audio {QUESTION}")]
    over = events.index("conversation.chat.completed")
    assert events[over - 2 : over] == events[over + 1 : over + 3] == ["conversation.audio.delta"] * 2


async def test_a_rewritten_answer_is_not_its_pieces_and_one_without_deltas_has_none(caller: Caller) -> None:
    records = await caller.records(f"/fault rewrite plain {QUESTION}")
    whole = completed(records)[0]["content"]
    assert whole != deltas(records)
    assert not whole.startswith(deltas(records)[:5])
    assert whole == (await answers_of(caller, records))[0]["content"]
    records = await caller.records(f"/fault no-deltas plain {QUESTION}")
    assert deltas(records) == ""
    assert completed(records)[0]["content"] == whole_text(f"/fault plain {QUESTION}")


@pytest.mark.parametrize("fault", ["failed:4028", "failed-flat:720702204", "error-event:4013", "error-event:0"])
async def test_a_failure_comes_half_way_and_is_the_last_record(caller: Caller, fault: str) -> None:
    records = await caller.records(f"/fault {fault} plain pieces:20 x")
    assert sum(event == "conversation.message.delta" for event, _ in records) == 10
    event, data = records[-1]
    code = fault.rpartition(":")[2]
    match fault.partition(":")[0]:
        case "failed":
            assert (event, data["last_error"]["code"]) == ("conversation.chat.failed", int(code))
        case "failed-flat":
            assert (event, list(data), data["code"]) == ("conversation.chat.failed", ["code", "msg"], code)
        case _:
            assert event == "error"
            assert data.get("code", 0) == int(code)
    assert not completed(records)


async def test_a_chat_that_someone_else_cancels_says_so(caller: Caller) -> None:
    records = await caller.records("/fault canceled pieces:20 x")
    assert records[-1][0] == "conversation.chat.canceled"
    assert (await caller.retrieve(records[0][1]))["status"] == "canceled"


async def test_a_giant_piece_is_one_piece_and_in_the_record(caller: Caller) -> None:
    records = await caller.records("/fault giant:200000 pieces:4 x")
    longest = max((data["content"] for event, data in records if event == "conversation.message.delta"), key=len)
    assert longest == "x" * 200_000
    assert (await answers_of(caller, records))[0]["content"] == deltas(records)


async def test_hostile_text_and_ids_are_data_and_forge_no_record(caller: Caller) -> None:
    records = await caller.records("/fault hostile hostile-ids plain x")
    text = deltas(records)
    for piece in ("\u2028", "\x85", "\r\n\r\n", "\x00", "<script>", 'data: {"event":"completed"'):
        assert piece in text
    assert completed(records)[0]["content"] == text == whole_text("/fault hostile plain x")
    assert "\r\n\r\ndata: " in completed(records)[0]["id"]
    assert sum(event == "conversation.chat.completed" for event, _ in records) == 1


async def test_half_a_surrogate_pair_is_a_json_escape_in_the_stream(caller: Caller) -> None:
    stream = await caller.stream("/fault surrogate plain pieces:4 x")
    assert stream.count(b"\\ud83d") == 2
    assert "\ue000" not in stream.decode()


async def test_half_a_surrogate_pair_is_in_the_record_too(caller: Caller) -> None:
    chat = await caller.start("/fault surrogate plain pieces:4 x")
    answer = next(m for m in await caller.messages(chat) if m["type"] == "answer")
    assert answer["content"].replace("\ud83d", "\ufffd") == whole_text("/fault surrogate plain pieces:4 x")
    assert "\ud83d" in answer["content"]
    assert "\ue000" not in answer["content"]


@pytest.mark.parametrize("fault", ["doubled", "lost", "shuffled"])
async def test_misdealt_pieces_are_put_right_by_the_completed_text(caller: Caller, fault: str) -> None:
    records = await caller.records(f"/fault {fault} plain {QUESTION}")
    right = whole_text(f"/fault plain {QUESTION}")
    assert deltas(records) != right
    assert completed(records)[0]["content"] == right
    pieces = sum(event == "conversation.message.delta" for event, _ in records)
    usual = sum(event == "conversation.message.delta" for event, _ in await caller.records(f"/fault plain {QUESTION}"))
    assert pieces == {"doubled": usual + usual // 3, "lost": usual - usual // 3, "shuffled": usual}[fault]


@pytest.mark.parametrize(
    "fault", ["foreign", "unknown-events", "malformed", "nan", "deep", "big-int", "bad-utf8", "lone-cr"]
)
async def test_noise_lies_between_the_records_and_takes_none_away(caller: Caller, fault: str) -> None:
    """The good records, found as lines, are the same as without; each of the others is one that was added."""

    def good(stream: bytes) -> list[bytes]:
        data = re.findall(rb'data:(\{"id":"[^\n\r]*"type":"answer","content":"(?!\r)[^\n\r]*\})\n\n', stream)
        found = []
        for line in data:
            try:
                record = json.loads(line.decode())
            except (ValueError, RecursionError):
                continue
            if record["content"] not in (GHOST, "") and record["content_type"] == "text":
                found.append(record["content"].encode())
        return found

    plain = await caller.stream("/fault plain pieces:12 x")
    noisy = await caller.stream(f"/fault plain pieces:12 {fault} x")
    assert good(noisy) == good(plain)
    added = noisy.count(b"\n\n") - plain.count(b"\n\n")
    assert added >= 3
    assert added % 3 == 0


async def test_foreign_records_name_another_chat(caller: Caller) -> None:
    records = await caller.records("/fault foreign plain pieces:6 x")
    own = records[0][1]
    for _, data in records:
        if GHOST in json.dumps(data, ensure_ascii=False):
            assert own["id"] not in (data.get("chat_id"), data.get("id"))
            assert data["conversation_id"] != own["conversation_id"]


async def test_late_frames_come_after_done(caller: Caller) -> None:
    records = await caller.records("/fault late plain pieces:3 x")
    events = [event for event, _ in records]
    assert events[events.index("done") + 1 :] == [
        "conversation.message.delta",
        "conversation.chat.completed",
        "done",
    ]
    assert records[-3][1]["content"] == GHOST
