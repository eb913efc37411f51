"""Which worker runs which tests, where several run side by side."""

import os
from itertools import chain, groupby
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

MEASURED = frozenset(
    {
        "tests/bench/test_deadlines.py",
        "tests/browser/test_messages.py::test_a_card_of_many_values_holds_nobody",
        "tests/browser/test_speed.py",
        "tests/contracts/test_cursors.py::test_next_batch_waits_as_long_as_asked_and_gives_nothing_then",
        "tests/edge/test_slow_attacks.py",
        "tests/edge/test_whose.py::test_timing_does_not_tell_anothers_from_what_never_existed",
        "tests/faults/test_clients.py::test_a_peer_whose_cable_is_pulled_is_noticed",
        "tests/simulator/test_chats.py::test_pieces_come_one_by_one_when_they_are_due",
        "tests/simulator/test_faults.py::test_slowness_is_where_it_was_asked_for",
        "tests/simulator/test_recording.py::test_a_rate_is_records_a_second_and_the_pace_original_is_40",
        "tests/store/test_opening.py::test_a_current_database_is_opened_quickly_without_alembic",
        "tests/transports/test_crowds.py",
        "tests/transports/test_longpoll.py",
        "tests/transports/test_positions.py::test_garbage_is_answered_in_at_most_fifty_milliseconds",
        "tests/transports/test_real_clients.py::test_a_browsers_eventsource_hears_a_turn_live_and_stops_by_itself",
        "tests/transports/test_shared.py::test_a_client_that_reads_no_answers_is_not_read_until_it_does",
        "tests/transports/test_sse.py::test_a_drain_tells_idle_listeners_to_come_back_and_lets_running_ones_finish",
        "tests/transports/test_starting.py::test_a_stop_in_one_tab_stops_all_within_half_a_second",
        "tests/transports/test_starting.py::test_a_turn_whose_last_listener_is_gone_is_cancelled_after_the_abandon_time",
        "tests/transports/test_starting.py::test_prefer_wait_answers_in_time_with_where_to_look",
        "tests/upstream/test_refused.py::test_a_connect_that_hangs_ends_with_its_time_out",
        "tests/upstream/test_refused.py::test_an_answer_that_never_ends_is_given_up_within_a_second",
        "tests/upstream/test_refused.py::test_no_answer_at_all_is_uncertain_after_the_idle_time_out",
        "tests/upstream/test_refused.py::test_of_a_large_refusal_only_the_beginning_is_read",
        "tests/upstream/test_refused.py::test_what_is_no_http_is_a_failure_at_once",
        "tests/upstream/test_stream.py::test_silence_ends_the_stream_after_the_idle_time_out",
        "tests/upstream/test_unpacking.py::test_a_bomb_ends_the_stream_and_holds_nobody_up",
        "tests/upstream/test_unpacking.py::test_a_bomb_in_a_refusal_or_a_record_is_not_unpacked",
    }
)
"""Files and tests that measure a second or less. They run first, while only one other worker works. So does a test that
adds a network: when the machine's networks change, a browser breaks off every request that is on its way."""

WORKING = ("browser", "edge", "examples", "contracts", "test_house.py", "bench", "load")
"""The folders and files whose tests are slow and need a processor, the slowest first."""

WAITING = (
    "nodes",
    "browser/test_network.py",
    "faults",
    "chaos",
    "browser/test_real_gateway.py",
    "leaks",
    "test_deploy_nodes.py",
    "test_deploy.py",
    "test_balancers.py",
    "transports",
    "doors",
    "test_cli.py",
)
"""The folders and files whose tests are slow because they wait, the slowest first."""

GENTLE = ("doors",)
"""Those of them that wait so much that they may run beside tests that measure."""

PROCESSORS = os.cpu_count() or 2

_HERE = Path(__file__).parent


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Slow tests come first, because otherwise one worker is still busy with them when all others have ended."""
    measured = [item for item in items if is_measured(item.nodeid)]
    others = (item for item in items if not is_measured(item.nodeid))
    files = [list(tests) for _, tests in groupby(others, key=lambda item: item.path)]
    rooms = (*WORKING, *WAITING)
    slow = [tests for room in rooms for tests in files if _room(tests[0].nodeid) == room]
    rest = [tests for tests in files if _room(tests[0].nodeid) not in rooms]
    return [*measured, *chain.from_iterable([*slow, *rest])]


def _room(nodeid: str) -> str:
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return file if file in WAITING else file.partition("/")[0]


def is_measured(nodeid: str) -> bool:
    test = nodeid.partition("[")[0]
    return test in MEASURED or test.partition("::")[0] in MEASURED


class Quietly(LoadFileScheduling):  # type: ignore[misc]
    """Gives a worker one file at a time, whose tests share what they start, or all tests that measure.

    While those run, the second worker has files of which each is one busy process at most, and the others have gentle
    files. They get the rest when the last of those tests has ended. From then on one processor is for files that wait,
    as long as there are any, and never more files than processors need one: a worker for which there is nothing else is
    not needed any more.
    """

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        super().mark_test_complete(node, item_index, duration)
        for other in self.nodes:
            if other is not node:
                self._reschedule(other)

    def _split_scope(self, nodeid: str) -> str:
        return "" if is_measured(nodeid) else str(super()._split_scope(nodeid))

    def _assign_work_unit(self, node: WorkerController) -> None:
        scope = self._next_for(node)
        if scope is not None:
            self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)
        elif not self._measuring:
            node.shutdown()  # after the tests that it has

    def _next_for(self, node: WorkerController) -> str | None:
        scopes: list[str] = list(self.workqueue)
        waiting = next((scope for scope in scopes if _room(scope) in WAITING), None)
        working = next((scope for scope in scopes if _room(scope) not in WAITING), None)
        if self._measuring:
            if node not in self.nodes[:2]:
                return next((scope for scope in scopes if _room(scope) in GENTLE), None)
            return next((scope for scope in scopes if _room(scope) not in (*WORKING, *WAITING)), waiting or working)
        busy = sum(self._needs_a_processor(other) for other in self.nodes if other is not node)
        if working is not None and (busy < PROCESSORS - 1 or (waiting is None and busy < PROCESSORS)):
            return working
        return waiting

    def _needs_a_processor(self, node: WorkerController) -> bool:
        """Whether it runs such a file. With a single test left it waits for another file, or for the end."""
        files = self.assigned_work[node]
        return self._pending_of(files) > 1 and any(
            _room(scope) not in WAITING and not all(tests.values()) for scope, tests in files.items()
        )

    @property
    def _measuring(self) -> bool:
        return any(not all(files.get("", {}).values()) for files in self.assigned_work.values())
