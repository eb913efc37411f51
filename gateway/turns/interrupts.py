"""Interrupts: finds the run of a workflow by Coze's id of the question that it has asked last."""

from msgspec import Struct

from gateway.ids import TurnId
from gateway.turns.asking import InterruptAsked, Reply, ask_all, until_taken_over
from gateway.turns.others import Others
from gateway.turns.runner import Runner
from gateway.turns.starting import Owns


class Waiting(Struct, frozen=True, array_like=True):
    """A run that has asked, and whose it is."""

    turn_id: TurnId
    user_id: str
    shop_id: str | None


class Interrupts:
    """Only running turns are looked at, and only those that came through a door in Coze's own form: a run that waits
    for an answer has not ended. One that has the answer already is found, too, so that the same question is not
    answered a second time while it goes on."""

    def __init__(self, runner: Runner, others: Others) -> None:
        self._runner = runner
        self._others = others

    async def find(self, event_id: str, *, owns: Owns) -> TurnId | None:
        """The caller's turn that has asked this question, at whatever node. Raises `storage_unavailable`."""
        found = self.here(event_id)
        if not found and self._others.any:
            found = await until_taken_over(lambda: self._elsewhere(event_id))
        return next((one.turn_id for one in found if owns(one.user_id, one.shop_id)), None)

    def here(self, event_id: str) -> list[Waiting]:
        """The turns of this node that have asked that; at most one for each caller."""
        return [
            Waiting(live.turn.turn_id, live.order.user_id, live.order.shop_id)
            for live in self._runner.turns.values()
            if live.order.kind == "run"
            and live.order.coze is not None
            and any(call.get("id") == event_id for call in live.turn.tool_calls)
        ]

    async def _elsewhere(self, event_id: str) -> list[Waiting] | None:
        """The same from all other nodes; None if one did not answer, because others may be taking over its turns."""
        answers: list[Reply | None] = await ask_all(self._others, InterruptAsked(event_id))
        found = [Waiting(*one) for answer in answers if answer is not None for one in answer.value]
        return found if found or None not in answers else None
