"""What an answer costs the browser."""

from tests.browser.conftest import Stub, Tab

SECTION = """## Part {n}

A paragraph with **bold** words, *thin* ones, `code` and a [link](https://example.com/{n}), long enough to be wrapped.

- one point of the list, {n}
- another point, with `code`
  - and one inside it

| name | value |
|:--|--:|
| rate | {n} |
| delay | 12 ms |

```python
async def part_{n}(session):
    async with session.get("/api/coze/turns") as response:
        return await response.json()  # {n}
```

"""
MARKDOWN = "".join(SECTION.format(n=n) for n in range(40))[:8_192]


async def test_eight_kilobytes_in_1400_pieces_cost_less_than_half_a_second_of_script(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer="warm up", delay=0)
    await tab.ask("hi")
    await tab.over()
    session = await tab.page.context.new_cdp_session(tab.page)
    await session.send("Performance.enable")

    async def script_seconds() -> float:
        metrics = (await session.send("Performance.getMetrics"))["metrics"]
        return float(next(m["value"] for m in metrics if m["name"] == "ScriptDuration"))

    before = await script_seconds()
    stub.behaves(answer=MARKDOWN, piece=6, delay=0.002)
    await tab.ask("Tell me all")
    await tab.over(nth=1)
    spent = await script_seconds() - before
    assert await tab.page.locator(".content").nth(1).locator("pre").count() == MARKDOWN.count("```python")
    assert stub.world.turns
    assert len(MARKDOWN) / 6 > 1_360
    assert spent < 0.5, f"{spent:.3f} s"


async def test_one_endless_block_does_not_take_all_the_time(tab: Tab, stub: Stub) -> None:
    """The open block is rendered anew again and again: the longer it takes, the more seldom it may happen."""
    session = await tab.page.context.new_cdp_session(tab.page)
    await session.send("Performance.enable")
    stub.behaves(answer="".join(f"- point {n} with `code` and **more**\n" for n in range(700)), piece=18, delay=0.002)
    await tab.ask("A long list")
    await tab.over()
    metrics = {m["name"]: m["value"] for m in (await session.send("Performance.getMetrics"))["metrics"]}
    assert metrics["ScriptDuration"] < 2
    assert await tab.page.locator(".content li").count() == 700


async def test_at_most_one_paint_a_frame(tab: Tab, stub: Stub) -> None:
    await tab.page.evaluate(
        """() => {
            window.frames_ = 0; window.paints = 0;
            const count = () => { frames_++; requestAnimationFrame(count); };
            requestAnimationFrame(count);
            let seen = -1;
            new MutationObserver(() => { if (seen !== frames_) { seen = frames_; } paints++; })
                .observe(document.querySelector("#log"), { subtree: true, childList: true });
        }"""
    )
    stub.behaves(answer=MARKDOWN[:3000], piece=2, delay=0)
    await tab.ask("Quick")
    await tab.over()
    frames, paints = await tab.page.evaluate("[frames_, paints]")
    assert paints <= frames + 20
