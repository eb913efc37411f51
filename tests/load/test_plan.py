"""The plan is bounded, and its mistakes are named."""

from typing import Any

import pytest

from tests.load.plan import Plan, PlanError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"turns": 0}, "turns: 0 is not between 1 and 100000"),
        ({"rate": float("nan")}, "rate: nan is not"),
        ({"seconds": 1e9}, "seconds: 1e+09 is not between 1 and 3600"),
        ({"transport": "ipx"}, 'transport: "ipx" is none of sse, websocket, longpoll'),
        ({"url": "gateway.example"}, "url: 'gateway.example' is no http:// or https:// URL"),
        ({"turns": 1000, "listeners": 1000}, "1000000 connections at once"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError) as error:
        Plan(**options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("url", "stranger"),
    [
        ("", None),
        ("http://127.0.0.1:3000", None),
        ("http://127.9.9.9", None),
        ("http://[::1]:3000", None),
        ("http://localhost:3000", None),
        ("https://gateway.example", "gateway.example"),
        ("http://10.0.0.1:3000", "10.0.0.1"),
    ],
)
def test_a_host_that_is_not_this_machine_is_known(url: str, stranger: str | None) -> None:
    assert Plan(url=url).stranger() == stranger


def test_each_turn_has_its_own_user_unless_one_is_named() -> None:
    assert Plan().body(1)["userId"] != Plan().body(2)["userId"]
    assert Plan(user="me").body(1)["userId"] == Plan(user="me").body(2)["userId"] == "me"


def test_a_real_coze_is_asked_a_plain_question() -> None:
    assert Plan(url="https://gateway.example").question == Plan().message
    assert Plan(simulated=True).question.startswith("/fault clock ")
