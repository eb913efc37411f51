"""The tokens of callers who bring their own: which are remembered, and for how long."""

import asyncio

from gateway.upstream.caller_tokens import CallerTokens, hash_of

FLOOD = 10_001


def flood(tokens: CallerTokens) -> None:
    for number in range(FLOOD):
        tokens.learn(f"made-up-{number}")


async def test_made_up_tokens_push_out_none_that_a_turn_needs() -> None:
    tokens = CallerTokens(60, lambda: 0.0)
    name = tokens.learn("pat_1")
    tokens.hold(name)
    tokens.hold(name)
    flood(tokens)
    tokens.release(name)
    assert await asyncio.wait_for(tokens.wait_for(name), 5) == "pat_1"
    tokens.release(name)
    flood(tokens)
    waiting = asyncio.create_task(tokens.wait_for(name))
    await asyncio.sleep(0)
    assert not waiting.done()  # no turn needs it any more
    tokens.learn("pat_1")
    assert await asyncio.wait_for(waiting, 5) == "pat_1"


async def test_a_token_that_comes_after_its_turn_is_kept_for_it() -> None:
    tokens = CallerTokens(60, lambda: 0.0)
    tokens.hold(hash_of("pat_1"))  # after a restart
    tokens.learn("pat_1")
    flood(tokens)
    assert await asyncio.wait_for(tokens.wait_for(hash_of("pat_1")), 5) == "pat_1"


async def test_nothing_is_left_of_waits_that_were_given_up() -> None:
    tokens = CallerTokens(60, lambda: 0.0)
    waits = [asyncio.create_task(tokens.wait_for("a hash")) for _ in range(3)]
    await asyncio.sleep(0)
    assert "1 awaited" in repr(tokens)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert "0 awaited" in repr(tokens)
