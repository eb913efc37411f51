"""Every way in which Coze's answer can go wrong, as a listener sees it. All are played at once, then each is judged."""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.simulator import Fault, Simulator, whole_text
from gateway.simulator.answers import prose_for
from gateway.simulator.faults import ASKING, parse_plan
from gateway.simulator.objects import SURROGATE_MARK
from tests.faults.coze import BASELINE_KINDS, gateway, ledger, patience, simulated
from tests.faults.reading import Reader, client

IDLE = 1.0
TURN_LIMIT = 5.0
QUESTION = prose_for("?").question.text


@dataclass(frozen=True)
class Row:
    """What is asked of Coze, and what must be seen. `posts` counts the messages that Coze got."""

    plan: str
    ends: str = "completed"
    posts: int = 1
    recovered: bool = False
    retries: int = 0
    within: float = 3.0
    text: str = "whole"
    asks: bool = False

    @property
    def message(self) -> str:
        short = "" if "pieces" in self.plan or "endless " in self.plan else " pieces:24"
        return f"/fault {self.plan}{short} -- what does the order {sum(self.plan.encode())} hold?"


RECOVERED = [
    Row(f"{how}:{after} pieces:20", recovered=True)
    for how in (
        "eof-after",
        "drop-after",
        "reset-after",
        "cut-record-after",
        "cut-utf8-after",
        "cut-chunk-after",
        "stall-after",
    )
    for after in (0, 1, 5)
]
RECORD = [
    Row("drop-after:5 retrieve-500:2", recovered=True, within=5),
    Row("drop-after:5 retrieve-slow:700", recovered=True, within=4),
    Row("drop-after:5 list-empty:2", recovered=True, within=5),
    Row("drop-after:5 list-500:2", recovered=True, within=5),
    Row("drop-after:5 rewrite", recovered=True),
    Row("drop-after:5 multi", recovered=True),
    Row("drop-after:2 reasoning", recovered=True),
    Row("drop-after:5 tool", recovered=True, within=6),
    Row("drop-after:5 card-only", recovered=False),
    Row("drop-after:5 hostile", recovered=True),
    Row("drop-after:5 giant", recovered=True),
    Row("no-completed", recovered=True),
    Row("done-early", recovered=True),
    Row("no-completed no-done", recovered=True),
]
WHOLE = [
    *(
        Row(plan)
        for plan in (
            "no-done",
            "late",
            "done-bare",
            "done-debug",
            "hold-open",
            "rewrite",
            "no-deltas",
            "doubled",
            "lost",
            "shuffled",
            "foreign",
            "unknown-events",
            "malformed",
            "nan",
            "deep",
            "big-int",
            "bad-utf8",
            "lone-cr",
            "crlf",
            "cr",
            "mixed",
            "bom",
            "space",
            "comments",
            "ids",
            "multiline-data",
            "data-first",
            "no-last-blank",
            "bytes rate:0",
            "bytes cr bom comments",
            "wrong-type",
            "studio",
            "hostile",
            "hostile-ids",
            "surrogate",
            "giant:1048576",
            "multi",
            "reasoning",
            "audio",
            "slow-head:800",
            "slow-first:800",
        )
    ),
    Row("tool", within=5),
    Row("card-only", text=""),
    Row("audio-only", text=""),
]
ASKED = [
    Row("question", asks=True),
    Row("question multi", asks=True),
    Row("question audio", asks=True),
    Row("question studio", asks=True),
    Row("question hold-open:4000", asks=True),
    Row("question no-done", asks=True),
    Row("question-card", asks=True, text=""),
    Row("question-in-call", asks=True, text=QUESTION),
    Row("question-bare", asks=True),
    Row("question-card question-bare", asks=True, text=""),
    Row("drop-after:2 question", asks=True, recovered=True),
    Row("drop-after:2 question-bare", asks=True, recovered=True),
    Row("drop-after:2 question list-empty:2", asks=True, recovered=True, within=5),
    Row("done-early question-card", asks=True, recovered=True, text=""),
    Row("done-early question-in-call", asks=True, recovered=True, text=QUESTION),
]
"""The bot asks the user something, which nobody answers meanwhile."""

FAILED = [
    Row("empty", ends="upstream_empty", text=""),
    Row("done-only", ends="upstream_empty", text=""),
    Row("failed", ends="upstream_unavailable", text="prefix"),
    Row("failed-flat", ends="upstream_rejected", text="prefix"),
    Row("error-event:4013", ends="upstream_rate_limited", text="prefix"),
    Row("error-event:0", ends="upstream_failed", text="prefix"),
    Row("canceled", ends="cancelled", text="prefix"),
    Row("no-head", ends="upstream_uncertain", text="", within=IDLE + 2),
    Row("reset-before-head", ends="upstream_uncertain", text=""),
    Row("silent", ends="upstream_uncertain", text="", within=IDLE + 2),
    Row("eof-before-created", ends="upstream_uncertain", text=""),
    Row("drop-before-created", ends="upstream_uncertain", text=""),
    Row("reset-before-created", ends="upstream_uncertain", text=""),
    Row("refuse", ends="upstream_uncertain", text=""),
    Row("html", ends="upstream_failed", text="", within=1.5),
    Row("bad-http", ends="upstream_failed", text="", within=1.5),
    Row("big-header", ends="upstream_failed", text="", within=1.5),
    Row("redirect", ends="upstream_failed", text="", within=1.5),
    Row("gzip-bomb", ends="upstream_failed", text="", within=1.5),
    Row("status:401", ends="upstream_unauthorized", text=""),
    Row("status:400 code:4000", ends="upstream_rejected", text=""),
    Row("code:4101", ends="upstream_unauthorized", text=""),
    Row("code:4100", ends="upstream_unauthorized", text=""),
    Row("code:4015", ends="upstream_rejected", text=""),
    Row("status:504", ends="upstream_uncertain", text=""),
    Row("status:429 retry-after:9999", ends="upstream_rate_limited", text=""),
    Row("endless-record", ends="upstream_failed", text="prefix", within=10),
]
RETRIED = [
    Row("status:429 times:1 retry-after:2", posts=2, retries=1, within=7),
    Row("status:429 times:1 retry-after:-1", posts=2, retries=1, within=5),
    Row("status:429 times:1 retry-after:garbage", posts=2, retries=1, within=5),
    Row("code:4009 times:1", posts=2, retries=1, within=5),
    Row("code:4013 times:2", posts=3, retries=2, within=7),
    Row("code:4016 times:1", posts=2, retries=1, within=5),
    Row("code:4020 times:1", posts=2, retries=1, within=5),
    Row("code:4009 times:9", ends="upstream_rate_limited", posts=4, retries=3, within=12, text=""),
]
UNREACHED = [
    Row("code:5000 times:1", posts=2, retries=1, within=5),
    Row("status:500 times:1", posts=2, retries=1, within=5),
    Row("html status:502 times:2", posts=3, retries=2, within=7),
    Row("status:503 times:9", ends="upstream_unavailable", posts=4, retries=3, within=12, text=""),
]
LIMITED = [
    Row("endless rate:200", ends="upstream_timeout", within=TURN_LIMIT + 2, text="some"),
    Row("comments-forever", ends="upstream_timeout", within=TURN_LIMIT + 2, text="some"),
    Row("drop-after:5 never-complete", ends="upstream_timeout", within=TURN_LIMIT + 2, text="prefix"),
    Row("stall-after:5 never-complete", ends="upstream_timeout", within=TURN_LIMIT + 2, text="prefix"),
]
"""Those that go on for as long as they may."""

TOGETHER = [*RECOVERED, *RECORD, *WHOLE, *ASKED, *FAILED, *RETRIED]
ROWS = [*TOGETHER, *UNREACHED, *LIMITED]


@dataclass
class Play:
    """What became of a row's turn."""

    reader: Reader
    seconds: float
    posts: int
    started_after: float


@dataclass(repr=False)
class Evening:
    """What became of all of them, and of the gateways meanwhile."""

    plays: dict[str, Play]
    fired: dict[Fault, int]
    slowest_health: float
    left_open: list[dict[str, int]]
    grown_mib: float
    log_lines: list[str]
    chats: int
    retrieves: int


async def _play(simulator: Simulator, url: str, row: Row) -> Play:
    reader = Reader()
    began = time.monotonic()
    async with asyncio.timeout(30), client() as session:
        await reader.ask(session, url, row.message)
        if not reader.over:
            await reader.finish(session, lambda: url)
    seconds = time.monotonic() - began
    return Play(reader, seconds, simulator.posts_of(row.message), reader.times[0] - began)


async def _watch_health(url: str, until: asyncio.Event) -> float:
    slowest = 0.0
    async with client() as session:
        while not until.is_set():
            began = time.monotonic()
            async with session.get(f"{url}/healthz") as response:
                assert response.status == 200
                await response.read()
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.02)  # how often health is asked for
    return slowest


def _most_memory(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


async def _evening(folder: Path) -> Evening:
    async with (
        simulated(rate=200) as simulator,
        gateway(folder / "a", simulator.url) as main,
        gateway(folder / "b", simulator.url) as alone,
        gateway(folder / "c", simulator.url, GATEWAY_TURN_TIMEOUT=str(TURN_LIMIT)) as limited,
    ):
        before = _most_memory(main.pid)
        over = asyncio.Event()
        health = asyncio.create_task(_watch_health(main.url, over))
        plays: dict[str, Play] = {}

        async def together(url: str, rows: list[Row]) -> None:
            await asyncio.gather(*(one(url, row) for row in rows))

        async def one(url: str, row: Row) -> None:
            plays[row.plan] = await _play(simulator, url, row)

        async def in_turn(url: str, rows: list[Row]) -> None:
            for row in rows:  # alone, or the breaker would skip some of their tries
                await one(url, row)

        async def in_groups(url: str, rows: list[Row]) -> None:
            for at in range(0, len(rows), 24):
                await together(url, rows[at : at + 24])

        await asyncio.gather(
            in_groups(main.url, TOGETHER), in_turn(alone.url, UNREACHED), together(limited.url, LIMITED)
        )
        over.set()
        slowest = await health
        await asyncio.sleep(2)  # a response may stay open for one after Coze's last word
        async with client() as session:
            left = [await ledger(session, process.url) for process in (main, alone, limited)]
        return Evening(
            plays,
            dict(simulator.faults_fired),
            slowest,
            left,
            _most_memory(main.pid) - before,
            [*main.text, *alone.text, *limited.text],
            simulator.chats_started,
            simulator.requests["retrieve"],
        )


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Evening:
    return asyncio.run(_evening(tmp_path_factory.mktemp("upstream")))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.plan.replace(" ", "+"))
def test_a_turn_ends_as_the_table_says_whatever_coze_does(evening: Evening, row: Row) -> None:
    play = evening.plays[row.plan]
    reader, last = play.reader, play.reader.last
    assert (last.get("code") or last["event"]) == row.ends, last
    assert play.posts == row.posts
    assert len(reader.named("notice", "retrying")) == row.retries
    assert play.seconds <= patience(row.within)
    assert play.started_after <= patience(1.0)
    match row.text:
        case "whole":
            assert reader.text == whole_text(row.message).replace(SURROGATE_MARK, "�")
        case "prefix":
            assert reader.text
            assert whole_text(row.message).startswith(reader.text)
        case "some":
            assert len(reader.text) > 3
        case text:
            assert reader.text == text
    if row.ends == "completed":
        assert last["recovered"] is row.recovered
        assert last.get("awaitingReply", False) is row.asks
        assert bool(reader.named("notice", "recovering")) is row.recovered
    assert "☠" not in str(reader.events)
    assert "�" not in reader.text or Fault.SURROGATE in parse_plan(row.message).faults


def test_every_fault_of_the_table_has_acted(evening: Evening) -> None:
    asked = {fault for row in ROWS for fault in parse_plan(row.message).faults}
    assert asked - evening.fired.keys() - {Fault.RATE, Fault.RETRY_AFTER} == set()


def test_faults_leave_nothing_open(evening: Evening) -> None:
    for left in evening.left_open:
        assert {kind: left.get(kind, 0) for kind in BASELINE_KINDS} == dict.fromkeys(BASELINE_KINDS, 0)


def test_faults_block_nobody_else(evening: Evening) -> None:
    assert evening.slowest_health < patience(0.5)  # 100 ms, and what the client itself needs


def test_faults_cost_little_memory(evening: Evening) -> None:
    assert evening.grown_mib <= 256


def test_faults_leave_no_trace_of_code_nor_text_in_the_logs(evening: Evening) -> None:
    log = "\n".join(evening.log_lines)
    assert "Traceback" not in log
    assert "what does the order" not in log
    assert "a-token-for-tests" not in log


def test_the_waits_of_retries_are_spread(evening: Evening) -> None:
    waits = [e["delayMs"] for play in evening.plays.values() for e in play.reader.named("notice", "retrying")]
    assert len(waits) > 10
    assert len(set(waits)) > 0.8 * len(waits)
    asked = evening.plays["status:429 times:1 retry-after:2"].reader.named("notice", "retrying")[0]
    assert 2000 <= asked["delayMs"] <= 4000


# -- what the log says of it ---------------------------------------------------------------------------------------

BROKE = "Coze's stream broke off"
NO_LAST_WORD = "Coze's stream ended without `done`"
NO_END = "Coze's stream ended with `done` without saying how the chat ended"
IDLE_TIMEOUT = "nothing came from Coze within GATEWAY_UPSTREAM_IDLE_TIMEOUT"
LOST = "the connection was lost before Coze answered"
NO_HTTP = "Coze's answer is no HTTP"
SAID_FAILED = "Coze said that the chat failed"
RECORD_FAILED = "asking for Coze's record: Coze answered 500"
NO_ANSWER = "there is no answer in it"
TOO_LONG = "not over within GATEWAY_TURN_TIMEOUT, and Coze's "
NOT_COZES = "which is neither an event stream nor an error of Coze's own"

CAUSES = {
    Fault.STATUS: "Coze answered {value}",
    Fault.CODE: "with code {value}",
    Fault.HTML: "Coze answered ",
    Fault.REDIRECT: f"Coze answered 307, {NOT_COZES}",
    Fault.REFUSE: LOST,
    Fault.BAD_HTTP: NO_HTTP,
    Fault.BIG_HEADER: f"{NO_HTTP}: LineTooLong",
    Fault.NO_HEAD: IDLE_TIMEOUT,
    Fault.RESET_BEFORE_HEAD: LOST,
    Fault.SILENT: IDLE_TIMEOUT,
    Fault.EOF_BEFORE_CREATED: NO_LAST_WORD,
    Fault.DROP_BEFORE_CREATED: BROKE,
    Fault.RESET_BEFORE_CREATED: BROKE,
    Fault.STALL_AFTER: IDLE_TIMEOUT,
    Fault.EOF_AFTER: NO_LAST_WORD,
    Fault.DROP_AFTER: BROKE,
    Fault.RESET_AFTER: BROKE,
    Fault.CUT_RECORD_AFTER: BROKE,
    Fault.CUT_UTF8_AFTER: BROKE,
    Fault.CUT_CHUNK_AFTER: BROKE,
    Fault.NO_COMPLETED: "Coze's stream ",
    Fault.DONE_EARLY: NO_END,
    Fault.DONE_ONLY: NO_ANSWER,
    Fault.EMPTY: NO_ANSWER,
    Fault.FAILED: SAID_FAILED,
    Fault.FAILED_FLAT: SAID_FAILED,
    Fault.ERROR_EVENT: SAID_FAILED,
    Fault.CANCELED: "Coze said that the chat was cancelled",
    Fault.ENDLESS: TOO_LONG,
    Fault.ENDLESS_RECORD: "has no end (over 8 MiB)",
    Fault.COMMENTS_FOREVER: TOO_LONG,
    Fault.GZIP_BOMB: "",  # what is said of it depends on where it is noticed, and is there in any case
    Fault.RETRIEVE_500: RECORD_FAILED,
    Fault.LIST_500: RECORD_FAILED,
    Fault.LIST_EMPTY: "Coze's record of the finished chat was not whole yet",
    Fault.NEVER_COMPLETE: TOO_LONG,
}
"""What stands in `reason`, for each fault that costs the turn something."""

FIELDS = {
    Fault.REWRITE: "rewritten",
    Fault.DOUBLED: "rewritten",
    Fault.LOST: "rewritten",
    Fault.SHUFFLED: "rewritten",
    Fault.FOREIGN: "skippedRecords",
    Fault.UNKNOWN_EVENTS: "skippedRecords",
    Fault.MALFORMED: "skippedRecords",
    Fault.NAN: "skippedRecords",
    Fault.DEEP: "skippedRecords",
    Fault.BAD_UTF8: "skippedRecords",
    Fault.LONE_CR: "skippedRecords",
}
"""The field of the line, for each fault that costs a record or some pieces."""

SLOW = {Fault.SLOW_HEAD: "firstContentSeconds", Fault.SLOW_FIRST: "firstContentSeconds", Fault.RETRIEVE_SLOW: "seconds"}

HARMLESS = frozenset(
    {
        *(Fault.RETRY_AFTER, Fault.TIMES, Fault.FIRST, Fault.RATE, Fault.PIECES, Fault.ECHO, Fault.CLOCK, Fault.PLAIN),
        *ASKING,
        *(Fault.REASONING, Fault.TOOL, Fault.ACTION, Fault.AUDIO, Fault.AUDIO_ONLY, Fault.MULTI, Fault.CARD_ONLY),
        *(Fault.NO_DELTAS, Fault.GIANT, Fault.HOSTILE, Fault.HOSTILE_IDS, Fault.SURROGATE, Fault.BIG_INT),
        *(Fault.NO_DONE, Fault.NO_CREATED, Fault.HOLD_OPEN, Fault.LATE, Fault.DONE_BARE, Fault.DONE_DEBUG),
        *(Fault.CRLF, Fault.CR, Fault.MIXED, Fault.BOM, Fault.SPACE, Fault.COMMENTS, Fault.IDS, Fault.MULTILINE_DATA),
        *(Fault.DATA_FIRST, Fault.NO_LAST_BLANK, Fault.STUDIO, Fault.V2, Fault.BYTES, Fault.WRONG_TYPE),
        Fault.ID_GAPS,
    }
)
"""What costs a turn nothing by itself, so that there is nothing to explain."""

ELSEWHERE = frozenset({Fault.CANCEL_500, Fault.FAILED_FIRST})
"""A cancel that fails has a line of its own, since the turn is over by then: see `tests/transports/test_course.py`.
What fails at its first record is a refusal, and told as one: see `tests/transports/test_workflows.py`."""


def test_each_fault_that_there_is_has_an_explanation_or_needs_none() -> None:
    assert {*CAUSES, *FIELDS, *SLOW, *HARMLESS, *ELSEWHERE} == set(Fault)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.plan.replace(" ", "+"))
def test_one_line_of_the_log_explains_what_became_of_the_turn(evening: Evening, row: Row) -> None:
    last = evening.plays[row.plan].reader.last
    lines = [line for line in map(json.loads, evening.log_lines) if line.get("turnId") == last["turnId"]]
    (line,) = [line for line in lines if line["event"] == "SSE stream ended"]
    faults = parse_plan(row.message).faults
    for fault, value in faults.items():
        if fault in CAUSES and not (fault is Fault.DROP_AFTER and Fault.CARD_ONLY in faults):  # over before it acts
            assert CAUSES[fault].format(value=value) in line["reason"]
            assert line["address"].startswith("http://127.0.0.1:")
            assert line["recovered"] is row.recovered
            assert line["attempts"] == row.posts
        elif fault in FIELDS:
            assert line[FIELDS[fault]]
        elif fault in SLOW:
            assert line[SLOW[fault]] >= int(str(value)) / 1000
    if faults.keys() <= HARMLESS | SLOW.keys():
        assert "reason" not in line
    if row.ends in ("completed", "cancelled"):
        assert line["level"] == "info"
        assert "code" not in line
    else:
        assert line["code"] == row.ends
        assert line["level"] == ("error" if row.ends == "upstream_unauthorized" else "warning")
        assert line.get("cozeCode") == last.get("upstream", {}).get("code")
        assert line.get("cozeLogId") == last.get("upstream", {}).get("logId")
