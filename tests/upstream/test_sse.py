"""The decoder, held to WHATWG's grammar."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.sse import SseDecoder, SseEvent
from tests.upstream.servers import SAMPLES, sample

BOM = b"\xef\xbb\xbf"

CASES: dict[str, tuple[list[bytes], list[SseEvent]]] = {
    "LF": ([b"data: a\n\ndata: b\n\n"], [(b"", b"a"), (b"", b"b")]),
    "CRLF": ([b"data: a\r\n\r\ndata: b\r\n\r\n"], [(b"", b"a"), (b"", b"b")]),
    "CR": ([b"data: a\r\rdata: b\r\r"], [(b"", b"a"), (b"", b"b")]),
    "CRLF split over chunks": ([b"data: a\r", b"\n\r", b"\ndata: b\r\n\r", b"\n"], [(b"", b"a"), (b"", b"b")]),
    "mixed ends": ([b"data: a\rdata: b\r\ndata: c\n\r\n"], [(b"", b"a\nb\nc")]),
    "a lone CR ends an event at once": ([b"data: a\r\r"], [(b"", b"a")]),
    "BOM": ([BOM + b"data: a\n\n"], [(b"", b"a")]),
    "BOM split": ([BOM[:1], BOM[1:2], BOM[2:] + b"data: a\n\n"], [(b"", b"a")]),
    "only the first BOM goes": ([BOM + BOM + b"data: a\n\ndata: b\n\n"], [(b"", b"b")]),
    "what only begins like a BOM": ([BOM[:2], b"data: a\n\ndata: b\n\n"], [(b"", b"b")]),
    "several data lines": ([b"data: a\ndata:\ndata: b\n\n"], [(b"", b"a\n\nb")]),
    "a field without colon": ([b"data\n\n", b"data\ndata\n\n"], [(b"", b""), (b"", b"\n")]),
    "empty data": ([b"event:x\ndata:\n\n"], [(b"x", b"")]),
    "a comment alone": ([b": hello\n\n:\n\n"], []),
    "a comment inside": ([b"event:x\n: hello\ndata: a\n\n"], [(b"x", b"a")]),
    "event and data, as Coze": ([b"event:x\ndata:{}\n\n"], [(b"x", b"{}")]),
    "data before event": ([b"data:{}\nevent:x\n\n"], [(b"x", b"{}")]),
    "no event": ([b"data:{}\n\n"], [(b"", b"{}")]),
    "the last event line counts": ([b"event:x\nevent:y\ndata:a\n\n"], [(b"y", b"a")]),
    "an event without data is none": ([b"event:x\n\ndata:a\n\n"], [(b"", b"a")]),
    "id alone is none": ([b"id:1\n\n"], []),
    "retry alone is none": ([b"retry:1000\n\n"], []),
    "exactly one leading space goes": (
        [b"data:  a \nevent:  x\n\n", b"event:  y\ndata:  b\n\n"],
        [(b" x", b" a "), (b" y", b" b")],
    ),
    "a tab stays": ([b"data:\ta\n\n"], [(b"", b"\ta")]),
    "unknown and odd fields are passed over": ([b"foo:1\n data:2\nDATA:3\ndata:a\n\n"], [(b"", b"a")]),
    "a colon in the value": ([b"data:a:b\n\n"], [(b"", b"a:b")]),
    "UTF-8 cut anywhere": ([bytes([b]) for b in "data:西湖🧋\n\n".encode()], [(b"", "西湖🧋".encode())]),
    "only LF and CR end lines": (
        ["data:a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1eh\n\n".encode()],
        [(b"", "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1eh".encode())],
    ),
    "an unfinished last block is dropped": ([b"data:a\n\ndata:b\n"], [(b"", b"a")]),
    "an unfinished last line is dropped": ([b"data:a\n\ndata:b"], [(b"", b"a")]),
    "blank lines between and before": ([b"\n\n\ndata:a\n\n\n\n\ndata:b\n\n\n"], [(b"", b"a"), (b"", b"b")]),
    "a long line": ([b"data:" + b"a" * 1_048_576 + b"\n\n"], [(b"", b"a" * 1_048_576)]),
    "nothing": ([b""], []),
}


def decoded(chunks: list[bytes], *, limit: int | None = None) -> tuple[list[SseEvent], SseDecoder]:
    decoder = SseDecoder() if limit is None else SseDecoder(limit)
    return list(itertools.chain.from_iterable([decoder.feed(chunk) for chunk in chunks])), decoder


def cut_at(text: bytes, places: list[int]) -> list[bytes]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize("name", CASES)
def test_the_grammar_is_kept(name: str) -> None:
    chunks, events = CASES[name]
    assert decoded(chunks)[0] == events
    assert decoded([b"".join(chunks)])[0] == events


@pytest.mark.parametrize("name", [name for name in CASES if name != "a long line"])
def test_the_grammar_is_kept_byte_by_byte(name: str) -> None:
    chunks, events = CASES[name]
    assert decoded([bytes([byte]) for byte in b"".join(chunks)])[0] == events


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (b"id:1\ndata:a\n\ndata:b\n\n", b"1"),
        (b"id:1\ndata:a\n\nid\n\n", b""),
        (b"id:1\n\nid:2\x00\n\n", b"1"),
        (b"id:1\n\nid:2\n", b"1"),
    ],
)
def test_an_id_lasts_until_a_finished_record_sets_another_without_nul(text: bytes, last: bytes) -> None:
    assert decoded([text])[1].last_event_id == last


BLOCKS = st.sampled_from(
    [
        b"event:x\ndata:{}\n\n",
        b"event: y\ndata: 1\n\n",
        b"data:a\ndata: b\n\n",
        b"data:c\r\n\r\n",
        b"data:d\r\r",
        b": comment\n",
        b"\n",
        b"\r",
        b"id:7\n",
        b"event:z\n",
        b"xevent:a\ndata:b\n\n",
        b"event:a\ndata:b\n\n\n",
        b"event:a\rdata:b\n\n",
        b"event:long\ndata:" + b"l" * 9000 + b"\n\n",
        "data:西\n\n".encode(),
        BOM,
    ]
)


@given(st.lists(BLOCKS, max_size=12), st.lists(st.integers(0, 100_000), max_size=12))
def test_any_chunking_gives_the_same_events(blocks: list[bytes], places: list[int]) -> None:
    text = b"".join(blocks)
    events, whole = decoded([text])
    again, parts = decoded(cut_at(text, places))
    assert again == events
    assert (parts.cut, parts.last_event_id) == (whole.cut, whole.last_event_id)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_any_bytes_in_any_chunking_give_the_same_events(text: bytes, places: list[int]) -> None:
    assert decoded(cut_at(text, places))[0] == decoded([text])[0]


@given(st.text(alphabet="adetvn:i \n\r\0", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_the_bulk_path_agrees_with_the_grammar_line_by_line(text: str, places: list[int]) -> None:
    prefix = b"\r\n"  # sends the first record down the path that knows no bulk
    data = text.encode()
    assert decoded([prefix + data])[0] == decoded([b"\n" + data])[0]
    assert decoded(cut_at(b"\n" + data, places))[0] == decoded([b"\n" + data])[0]


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.sse")), ids=lambda path: path.name)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_sample_decodes_the_same_under_each_line_end_and_cut(path: object, end: bytes) -> None:
    text = sample(path.name)  # type: ignore[attr-defined]
    events = decoded([text])[0]
    assert len(events) == text.count(b"\ndata:") + text.startswith(b"data:")
    other = text.replace(b"\n", end)
    for size in (1, 7, 1460):
        chunks = [other[i : i + size] for i in range(0, len(other), size)]
        assert decoded(chunks)[0] == events


@pytest.mark.parametrize("size", [1, 10, 1000])
@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data:a\n\ndata:" + b"b" * 96 + b"\n\ndata:c\n\n", [(b"", b"a")]),
        (b"data:a\n\n" + b"data:bbbbb\n" * 11 + b"\ndata:c\n\n", [(b"", b"a")]),
        (b"data:a\n\n:" + b"b" * 100 + b"\n\ndata:c\n\n", [(b"", b"a")]),
        (b"event:x\ndata:" + b"b" * 100 + b"\n\nevent:x\ndata:c\n\n", []),
    ],
)
def test_a_record_over_the_limit_ends_decoding(size: int, text: bytes, events: list[SseEvent]) -> None:
    found, decoder = decoded([text[i : i + size] for i in range(0, len(text), size)], limit=100)
    assert found == events
    assert decoder.too_large
    assert decoder.feed(b"data:d\n\n") == []


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_records_up_to_the_limit_pass_and_comments_do_not_add_up(size: int) -> None:
    text = b"data:" + b"b" * 95 + b"\n\n" + b":comment\n" * 50 + b"data:c\n\n" + b"event:x\ndata:" + b"d" * 80 + b"\n\n"
    found, decoder = decoded([text[i : i + size] for i in range(0, len(text), size)], limit=100)
    assert found == [(b"", b"b" * 95), (b"", b"c"), (b"x", b"d" * 80)]
    assert not decoder.too_large


def test_a_line_without_end_is_not_kept() -> None:
    decoder, piece = SseDecoder(1_000_000), b"x" * 65_536
    tracemalloc.start()
    try:
        for _ in range(100):
            decoder.feed(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoder.too_large
    assert peak < 3_000_000
    assert not decoder.cut


@pytest.mark.parametrize("text", [b"data", b"data:a", b"data:a\n", b"event:x\n", b"data:a\r", b"x\r\ndata:a\r\n"])
def test_an_end_inside_a_record_is_told(text: bytes) -> None:
    assert decoded([b"data:z\n\n" + text])[1].cut
    assert decoded([b"data:z\r\n\r\n" + text])[1].cut


@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n", b": comment\n", b"id:1\n"])
def test_an_end_between_records_is_told_too(text: bytes) -> None:
    assert not decoded([b"data:z\n\n" + text])[1].cut
    assert not decoded([b"data:z\r\n\r\n" + text])[1].cut
