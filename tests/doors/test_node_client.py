"""Coze's own client for node against the door."""

import json
from pathlib import Path

import pytest

from gateway.simulator import whole_run, whole_text
from gateway.simulator.faults import Fault
from tests.conftest import Require
from tests.doors.clients import CUTS, QUESTION, cut_after
from tests.doors.conftest import Door
from tests.simulator.node import seen_by_node
from tests.simulator.test_official_clients import node_modules

__all__ = ["node_modules"]

SCRIPT = Path(__file__).parent / "official_client.mjs"


@pytest.mark.timeout(300)
async def test_coze_s_client_for_node_streams_polls_and_submits(
    door: Door, node_modules: Path, require: Require
) -> None:
    cuts = [cut_after(pieces) for pieces in CUTS]
    seen = await seen_by_node(SCRIPT, node_modules, require, door.url, QUESTION, json.dumps(cuts), within=100)
    assert seen["whole"]["events"][0] == "conversation.chat.created"
    assert seen["whole"]["events"][-2:] == ["conversation.chat.completed", "done"]
    assert seen["whole"]["text"] == whole_text(QUESTION)
    assert [one["text"] for one in seen["cut"]] == [whole_text(message) for message in cuts]
    assert all(one["events"][-2:] == ["conversation.chat.completed", "done"] for one in seen["cut"])
    assert door.simulator.faults_fired[Fault.DROP_AFTER] == len(cuts)
    assert all(door.simulator.posts_of(message) == 1 for message in cuts)
    assert seen["status"] == "completed"
    assert seen["polled"] == [whole_text(QUESTION)]
    assert seen["refused"] == 4016
    assert seen["waits"][-2:] == ["conversation.chat.requires_action", "done"]
    assert seen["outputs"][0] == "conversation.chat.in_progress"
    assert seen["outputs"][-2:] == ["conversation.chat.completed", "done"]
    assert seen["stopped"]["events"][-1] == "Interrupt"
    assert seen["stopped"]["text"] == whole_run("/fault action x")
    assert seen["resumed"]["events"][-1] == "Done"
    assert seen["resumed"]["text"] == whole_run("/fault action x", answer="杭州")
