"""Coze's codes become the contract's, as its table says."""

import pytest

from gateway.errors import Code
from gateway.upstream.codes import classify


@pytest.mark.parametrize(
    ("coze_code", "expected"),
    [
        (4009, (Code.UPSTREAM_RATE_LIMITED, True)),
        (4013, (Code.UPSTREAM_RATE_LIMITED, True)),
        (4020, (Code.UPSTREAM_RATE_LIMITED, True)),
        (4016, (Code.CONVERSATION_BUSY, True)),
        (5000, (Code.UPSTREAM_UNAVAILABLE, True)),
        (4100, (Code.UPSTREAM_UNAUTHORIZED, False)),
        (4101, (Code.UPSTREAM_UNAUTHORIZED, False)),
        (700012006, (Code.UPSTREAM_UNAUTHORIZED, False)),
    ],
)
def test_a_code_in_the_contracts_table_is_read_as_it_says(coze_code: int, expected: tuple[Code, bool]) -> None:
    assert classify(coze_code) == expected


@pytest.mark.parametrize("coze_code", [4000, 4008, 4015, 4028, 4200, 702242001, 720702204, -1])
def test_any_other_code_is_cozes_no(coze_code: int) -> None:
    assert classify(coze_code) == (Code.UPSTREAM_REJECTED, False)


@pytest.mark.parametrize("coze_code", [None, 0])
def test_a_failure_without_a_code_may_be_tried_again(coze_code: int | None) -> None:
    assert classify(coze_code) == (Code.UPSTREAM_FAILED, True)
