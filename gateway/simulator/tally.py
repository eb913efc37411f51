"""The tally: counts the requests to a simulator, and the faults that acted. Tests read it; its size is bounded."""

from collections import Counter, deque
from collections.abc import Callable

from gateway.simulator.faults import TAKING_NOTHING, Fault, FaultPlan

_MESSAGES_AT_MOST = 10_000
_CALLS_AT_MOST = 10_000


class Tally:
    """`chats_started` counts the messages that were accepted, `requests` all requests by operation, `faults_fired` how
    often each fault acted; `calls` are the latest requests, with their unix times."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._posts: Counter[str] = Counter()
        self._spent: Counter[tuple[str, Fault]] = Counter()
        self.chats_started = 0
        self.requests: Counter[str] = Counter()
        self.faults_fired: Counter[Fault] = Counter()
        self.calls: deque[tuple[float, str]] = deque(maxlen=_CALLS_AT_MOST)

    def called(self, operation: str) -> None:
        self.requests[operation] += 1
        self.calls.append((self._clock(), operation))

    def posted(self, message: str) -> None:
        if len(self._posts) >= _MESSAGES_AT_MOST:
            self._posts.clear()
        self._posts[message] += 1

    def posts_of(self, message: str) -> int:
        return self._posts[message]

    def refuses(self, message: str, plan: FaultPlan) -> bool:
        """Whether the plan refuses this request."""
        if not plan.asks_any(TAKING_NOTHING):
            return False
        if Fault.TIMES in plan:
            if self.posts_of(message) > plan.number(Fault.TIMES):
                return False
            self.fire(Fault.TIMES)
        return True

    def fire(self, fault: Fault) -> None:
        self.faults_fired[fault] += 1

    def spends(self, chat_id: str, plan: FaultPlan, fault: Fault) -> bool:
        """Whether this request about a chat is among the first N that the fault applies to. If so, the fault fires."""
        if fault not in plan or self._spent[chat_id, fault] >= plan.number(fault):
            return False
        if len(self._spent) >= _MESSAGES_AT_MOST:
            self._spent.clear()
        self._spent[chat_id, fault] += 1
        self.fire(fault)
        return True
