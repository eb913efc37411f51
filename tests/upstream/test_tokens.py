import pytest

from gateway.upstream.tokens import FixedToken


async def test_a_fixed_token_stays_and_cannot_be_renewed() -> None:
    source = FixedToken("pat_x")
    assert await source.token("u") == "pat_x"
    assert not source.invalidate("pat_x")
    assert "pat_x" not in repr(source)


@pytest.mark.parametrize("token", ["", "pat_x\n", "pat x", "pat_é", "a\r\nX-Evil: 1", "pat_\x7f"])
def test_what_cannot_be_in_a_header_is_no_token(token: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        FixedToken(token)
    assert "Evil" not in str(caught.value)
