"""What answers look like, and what they must never do."""

import base64
import json
import math
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Locator, expect

from tests.browser.conftest import PLAIN, Stub, Tab

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PNG = f"data:image/png;base64,{PIXEL}"
MARKDOWN = """# Title

Some **bold**, *thin* and `code`, a [link](https://example.com/a?b=1&c=2) and https://example.com/bare.

| left | middle | right |
|:--|:-:|--:|
| a | b | 1 |

1. one
2. two
   - inner

   still two

> quoted

```python
def f(x):
    return x  # <b>
```

Setext
------

Later defined: [ref] and a lazy
- list

[ref]: https://example.com/ref

last line 你好 🌍
"""


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere() -> AsyncIterator[tuple[str, list[str]]]:
    """Another host, which counts who calls it."""
    calls: list[str] = []

    async def image(request: web.Request) -> web.Response:
        calls.append(request.path)
        if request.path == "/late.png" and calls.count("/late.png") == 1:
            return web.Response(status=503)
        return web.Response(body=base64.b64decode(PIXEL), content_type="image/png")

    app = web.Application()
    app.router.add_get("/{name}", image)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", calls
    await runner.cleanup()


async def shown(tab: Tab, stub: Stub, answer: str, piece: int = 5) -> Locator:
    stub.behaves(answer=answer, delay=0.001, piece=piece)
    nth = await tab.page.locator(".turn").count()
    await tab.ask("hi")
    await tab.over(nth=nth)
    return tab.page.locator(".content").nth(nth)


async def test_an_answer_in_pieces_looks_like_the_same_answer_at_once(tab: Tab, stub: Stub) -> None:
    content = await shown(tab, stub, MARKDOWN, piece=3)
    streamed = await content.evaluate("(e) => [...e.children].map((c) => c.outerHTML)")
    whole = await tab.page.evaluate(
        """async (source) => {
            const { rendered } = await import("/page/markdown.js");
            return [...rendered(source, {}).children].map((c) => c.outerHTML);
        }""",
        MARKDOWN,
    )
    assert streamed == whole


async def test_markdown_is_shown_with_its_tables_code_and_links(tab: Tab, stub: Stub) -> None:
    content = await shown(tab, stub, MARKDOWN)
    assert await content.locator("h1").inner_text() == "Title"
    assert await content.locator("td.align-right").inner_text() == "1"
    assert await content.locator("[style]").count() == 0
    assert await content.locator(".hljs-keyword").first.inner_text() == "def"
    assert await content.locator("pre code").inner_text() == "def f(x):\n    return x  # <b>\n"
    links = [(await a.get_attribute("href"), await a.get_attribute("rel")) for a in await content.locator("a").all()]
    assert [href for href, _ in links] == [
        "https://example.com/a?b=1&c=2",
        "https://example.com/bare",
        "https://example.com/ref",
    ]
    assert {rel for _, rel in links} == {"noopener noreferrer nofollow"}


async def test_code_can_be_copied(tab: Tab, stub: Stub) -> None:
    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    content = await shown(tab, stub, MARKDOWN)
    await content.locator(".code-bar button").click()
    assert await tab.page.evaluate("navigator.clipboard.readText()") == "def f(x):\n    return x  # <b>\n"
    await tab.page.locator(".foot [data-t=copy]").click()
    assert await tab.page.evaluate("navigator.clipboard.readText()") == MARKDOWN


async def test_unfinished_markdown_is_shown_as_it_will_be_also_in_a_long_pause(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    content = tab.page.locator(".content")
    for piece, shown in [
        ("Now **bold wor", "Now bold wor"),
        ("ds** and `co", "Now bold words and co"),
        ("de` and ![a picture](data:image/png;base64,iVBORw", "Now bold words and code and"),
    ]:
        await stub.world.append(turn, {"event": "message", "content": piece})
        await expect(content).to_have_text(shown)
    assert await content.locator("strong").inner_text() == "bold words"
    assert await content.locator("code").inner_text() == "code"
    turn.status = "completed"
    text = "Now **bold words** and `code` and ![a picture](data:image/png;base64,iVBORw"
    ids = {"conversationId": turn.conversation, "turnId": turn.id}
    await stub.world.append(turn, {"event": "completed", **ids, "content": text, "usage": None, "recovered": False})
    assert (await tab.over()).endswith("and ![a picture](data:image/png;base64,iVBORw"), "what was never closed is text"


async def test_maths_stays_as_it_was_written(tab: Tab) -> None:
    texts = {
        "So $a_1 * b_1 * c$ is": "So $a_1 * b_1 * c$ is",
        r"and \(x_1 * y_2 * z\) too": r"and \(x_1 * y_2 * z\) too",
        "$$\na_1 * b\n= c *d*\n$$": "$$\na_1 * b\n= c *d*\n$$",
        "Then\n\\[\n\\frac{a}{b}\n- c\n\\]\nand": "Then \\[\n\\frac{a}{b}\n- c\n\\] and",
        r"a row \[ a_1 * b_1 * c \] of it": r"a row \[ a_1 * b_1 * c \] of it",
        "from $5 to *$10*, $20": "from $5 to $10, $20",
        r"\$5 is *not*": "$5 is not",
    }
    for source, shown in texts.items():
        got = await tab.page.evaluate(
            """async (source) => {
                const { rendered } = await import("/page/markdown.js");
                return [...rendered(source, {}).children].map((one) => one.textContent).join(" ");
            }""",
            source,
        )
        assert got == shown


async def test_a_task_list_has_boxes_and_quotations_stand_in_each_other(tab: Tab, stub: Stub) -> None:
    stub.behaves(
        answer="- [ ] open\n- [x] **done**\n  - [X] inner\n- [y] none\n\n"
        "> one\n>\n> > two\n> >\n> > > three\n>\n> one again"
    )
    await tab.ask("hi")
    await tab.over()
    content = tab.page.locator(".content")
    assert await content.locator(".task").all_inner_texts() == ["☐", "☑", "☑"]
    assert await content.locator("li").first.evaluate("(item) => getComputedStyle(item).listStyleType") == "none"
    assert await content.locator("li > div").nth(3).inner_text() == "[y] none"
    assert await content.locator("blockquote blockquote blockquote").inner_text() == "three"
    assert await content.locator("blockquote > p").last.inner_text() == "one again"


async def test_a_table_on_a_phone_keeps_its_words_and_says_that_it_can_be_scrolled(tab: Tab, stub: Stub) -> None:
    await tab.page.set_viewport_size({"width": 375, "height": 700})
    row = "| Events of a server | unaffected | `wss://gateway.invalid` | synchronisation |\n"
    stub.behaves(
        answer=f"| Transport | Behind a proxy | Address | Notes |\n|--|--|--|--|\n{row}\n\n"
        "| a | b |\n|--|--|\n| 1 | 2 |\n"
    )
    await tab.ask("hi")
    await tab.over()
    frames = tab.page.locator(".table-frame")
    wide = await frames.first.evaluate(
        """(frame) => ({
            scrolls: frame.scrollWidth - frame.clientWidth,
            broken: [...frame.querySelectorAll("th, td")].filter((cell) => {
                const longest = document.createElement("span");
                longest.textContent = cell.textContent.split(" ").sort((a, b) => b.length - a.length)[0];
                cell.append(longest);
                const lines = longest.getClientRects().length;
                longest.remove();
                return lines > 1;
            }).length,
            shadows: getComputedStyle(frame).backgroundAttachment,
        })"""
    )
    assert wide["scrolls"] > 50
    assert wide["broken"] == 0
    assert wide["shadows"] == "local, local, scroll, scroll"
    assert await frames.last.evaluate("(frame) => frame.scrollWidth - frame.clientWidth") == 0
    assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 375


async def test_a_cell_whose_words_have_no_blanks_between_them_is_no_pillar_of_single_syllables(
    tab: Tab, stub: Stub
) -> None:
    await tab.page.set_viewport_size({"width": 390, "height": 700})
    row = "| 长轮询 | 每一次都是一个完整的请求，任何代理都能通过 | GET | ほとんど届く | 상태가 좋은 연결 |\n"
    stub.behaves(
        answer=f"| 传输方式 | 说明 | 地址 | 備考 | 비고 |\n|--|:-:|--|--|--|\n{row}\n"
        "| 甲 | 乙 |\n|--|--|\n| 一 | 二 |\n"
    )
    await tab.ask("hi")
    await tab.over()
    frames = tab.page.locator(".table-frame")
    lines = await frames.first.evaluate(
        """(frame) => [...frame.querySelectorAll("th, td")].map((cell) => {
            const words = document.createRange();
            words.selectNodeContents(cell);
            return new Set([...words.getClientRects()].map(({ top }) => Math.round(top))).size;
        })"""
    )
    assert lines[:6] == [1] * 6
    assert max(lines) <= 3
    assert await frames.last.evaluate("(frame) => frame.scrollWidth - frame.clientWidth") == 0
    assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 390


async def test_what_is_too_deep_for_markdown_is_shown_as_it_was_written(tab: Tab) -> None:
    deep = ">" * 150 + " at the bottom"
    shown = await tab.page.evaluate(
        """async (source) => {
            const { rendered } = await import("/page/markdown.js");
            return [...rendered(source, {}).children].map((one) => [one.nodeName, one.textContent.trim()]);
        }""",
        f"before **it**\n\n{deep}\n\nafter",
    )
    assert shown == [["P", "before it"], ["P", deep], ["P", "after"]]


async def test_words_are_added_to_the_paragraph_that_is_there(tab: Tab) -> None:
    same = await tab.page.evaluate(
        """async () => {
            const { OpenBlock } = await import("/page/open-block.js");
            const open = new OpenBlock(document.createElement("div"));
            open.render("Some **bold** and", {});
            const [paragraph, strong] = [open.element.firstChild, open.element.querySelector("strong")];
            return open.grow("Some **bold** and plain words, ") && open.grow("Some **bold** and plain words, then")
                && !open.grow("Some **bold** and plain words, then `") && open.element.firstChild === paragraph
                && paragraph.contains(strong) && paragraph.textContent === "Some bold and plain words, then";
        }"""
    )
    assert same


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        ("- [a link](https://h.invalid/a) in words\n", "- one **more** item\n"),
        ("| a | b |\n|---|---|\n| [a link](https://h.invalid/a) | words |\n", "| one **more** | row |\n"),
        ("See [a link](https://h.invalid/a) in words.", " And **more** words."),
        ("1. [a link](https://h.invalid/a) in words\n", "   - `inner`\n2. two\n"),
        ("> [a link](https://h.invalid/a) in words\n", "> and **more**\n"),
    ],
    ids=["list", "table", "paragraph", "numbered list", "quotation"],
)
async def test_what_is_shown_already_stays_while_more_is_written_and_when_it_is_whole(
    tab: Tab, stub: Stub, begin: str, more: str
) -> None:
    """A press that lasts, the focus, and a selection: all are lost with their element."""
    stub.behaves(answer=begin + more * 12 + "\n\nThe end.", piece=9, delay=0.03)
    await tab.ask("hi")
    await tab.page.locator(".content a", has_text="a link").wait_for()  # before that its address alone is one
    await tab.page.evaluate(
        """() => {
            window.link = document.querySelector(".content a");
            link.focus({ preventScroll: true });
            getSelection().selectAllChildren(link);
        }"""
    )
    await tab.over()
    kept = "[link.isConnected, document.activeElement === link, String(getSelection())]"
    assert await tab.page.evaluate(kept) == [True, True, "a link"]
    assert await tab.page.locator(".content strong, .content code").count() >= 12


async def test_a_link_stays_when_its_list_becomes_loose_or_another_link_is_made_before_it(tab: Tab) -> None:
    for begin, more in (
        ("1. **Step** [first](https://h.invalid/1)\n", "\n2. second\n"),
        ("See the [docs] first, or pay [here](https://h.invalid/pay) now.", "\n\n[docs]: https://h.invalid/docs\n"),
        ("| [a](https://h.invalid/a) |\n|--", ":|\n| b |\n"),
    ):
        kept = await tab.page.evaluate(
            """async ([begin, more]) => {
                const { AnswerText } = await import("/page/answer-text.js");
                const element = document.createElement("div");
                document.body.prepend(element);
                const answer = new AnswerText(element);
                answer.set(begin);
                while (answer.typing) await new Promise((resolve) => setTimeout(resolve, 50));
                const link = element.querySelector("a");
                link.focus();
                const { href } = link;
                answer.set(begin + more);
                answer.finish();
                while (!element.dataset.typed) await new Promise((resolve) => setTimeout(resolve, 50));
                return [link.isConnected, document.activeElement === link, link.href === href];
            }""",
            [begin, more],
        )
        assert kept == [True, True, True], begin


async def test_a_list_below_a_line_begins_without_a_heading(tab: Tab) -> None:
    names = await tab.page.evaluate(
        """async () => {
            const { OpenBlock } = await import("/page/open-block.js");
            const element = document.createElement("div");
            const open = new OpenBlock(element);
            const source = "Three points:\\n- one\\n- two\\n\\nHead\\n---\\n";
            const names = new Set();
            for (let end = 1; end <= source.length; end++) {
                if (!open.grow(source.slice(0, end))) open.render(source.slice(0, end), {});
                names.add([...element.children].map((child) => child.nodeName).join());
            }
            return [...names];
        }"""
    )
    assert names == ["P", "P,UL", "P,UL,P", "P,UL,H2"]


async def test_a_rewritten_answer_goes_on_where_it_is_another(tab: Tab) -> None:
    """The reader keeps the place, the focus, and all that is as it was; a text that is empty again is shown empty."""
    heights, kept, end, empty = await tab.page.evaluate(
        """async () => {
            const { AnswerText } = await import("/page/answer-text.js");
            const element = document.createElement("div");
            document.body.prepend(element);
            const answer = new AnswerText(element);
            const pause = () => new Promise((resolve) => setTimeout(resolve, 20));
            const text = Array.from({ length: 60 }, (_, i) => `Part **${i}** with a [link](https://h.invalid/${i}).`).join("\\n\\n");
            answer.set(`${text}  \\n\\n`);
            while (answer.typing) await pause();
            const link = element.querySelector("a");
            link.focus();
            const heights = [element.offsetHeight];
            answer.set(text.replace("**59**", "**sixty**"));
            answer.finish();
            while (!element.dataset.typed) { await pause(); heights.push(element.offsetHeight); }
            const kept = document.activeElement === link;
            const end = element.lastElementChild.textContent;
            answer.set("");
            while (answer.typing) await pause();
            return [heights, kept, end, element.textContent];
        }"""
    )
    assert min(heights) > 0.9 * max(heights)
    assert kept
    assert (end, empty) == ("Part sixty with a link.", "")


async def test_copied_is_said_while_the_code_is_still_written(tab: Tab, stub: Stub) -> None:
    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    stub.behaves(answer="- code:\n  ```\n  first\n  ```\n" + "- one **more** item\n" * 20, piece=9, delay=0.03)
    await tab.ask("hi")
    await expect(tab.page.locator(".content pre")).to_have_text("first\n")
    button = tab.page.locator(".code-bar button")
    await button.click()
    await expect(button).to_have_text("Copied")
    await tab.page.wait_for_timeout(700)  # some renderings
    assert await button.inner_text() == "Copied"
    assert (await tab.page.evaluate("navigator.clipboard.readText()")).strip() == "first"
    await tab.over()
    await button.click()
    assert (await tab.page.evaluate("navigator.clipboard.readText()")).strip() == "first"


HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<style>*{display:none}</style><iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "[a](javascript:window.pwned=1) [b](JaVaScRiPt:alert(1)) [c](&#106;avascript:alert(1))",
    "[d](\x01javascript:alert(1)) [e](\tjavascript:alert(1)) [f](java\nscript:alert(1))",
    "[e](data:text/html;base64,PHNjcmlwdD4=) [f](vbscript:x) [g](file:///etc/passwd) <javascript:alert(1)>",
    "![x](javascript:window.pwned=1) ![y](data:image/svg+xml;base64,PHN2Zz4=) ![z](data:text/html,x)",
    "[r]: javascript:alert(1)\n\n[r] ![r]",
    "```<img src=x onerror=window.pwned=1>\n<script>window.pwned=1</script>\n```",
    '![a" onerror="window.pwned=1](https://h.invalid/x" onerror="window.pwned=1)',
    '[a](https://h.invalid/"onmouseover="window.pwned=1) `<b onclick=x>` \u2028 \u202e \0',
    "| <b onclick=x> | y |\n|--|--|\n| <svg onload=window.pwned=1> | [k](javascript:1) |",
    '<a href="javascript:alert(1)" id="message" name="cookie">x</a>',
    '<form action="https://h.invalid"><input name=a></form><math><mi xlink:href="javascript:1">',
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
async def test_what_is_unsafe_is_never_live(tab: Tab, stub: Stub, answer: str) -> None:
    content = await shown(tab, stub, answer)
    live = "script, style, iframe, object, embed, form, input, svg, math, base, link, meta"
    live += ", [src], [srcset], [id], [name], [style]"
    assert await content.locator(live).count() == 0
    for link in await content.locator("a").all():
        assert str(await link.get_attribute("href")).startswith(("https://", "http://", "mailto:"))
    handlers = (
        "(e) => [...e.querySelectorAll('*')].flatMap((x) => x.getAttributeNames()).filter((n) => n.startsWith('on'))"
    )
    assert await content.evaluate(handlers) == []
    assert await tab.page.evaluate("window.pwned") is None


async def test_an_image_of_another_host_loads_after_a_click_and_not_before(
    tab: Tab, stub: Stub, elsewhere: tuple[str, list[str]]
) -> None:
    host, calls = elsewhere
    answer = f"![A cat]({host}/cat.png?secret=1)\n\n[![in a link]({host}/b.png)]({host}/page)\n\n"
    answer += f"![ref][r]\n\n[r]: {host}/c.png\n"
    content = await shown(tab, stub, answer)
    await tab.page.wait_for_timeout(300)
    assert calls == []
    assert await content.locator("img").count() == 0
    button = content.locator(".media-ask").first
    assert "A cat" in await button.inner_text()
    assert host.removeprefix("http://") in await button.inner_text()
    await button.click()
    image = content.locator("img")
    await image.wait_for()
    assert await image.get_attribute("alt") == "A cat"
    await tab.page.wait_for_function("document.querySelector('.content img').naturalWidth === 1")
    assert calls == ["/cat.png"]
    tab.strangers.clear()  # the one that was asked for


async def test_an_image_that_did_not_come_can_be_asked_for_again(
    tab: Tab, stub: Stub, elsewhere: tuple[str, list[str]]
) -> None:
    host, calls = elsewhere
    tab.faulty = True
    content = await shown(tab, stub, f"![A cat]({host}/late.png)")
    await content.locator(".media-ask").click()
    failed = content.locator(".media-failed")
    await failed.wait_for()
    assert await failed.get_by_role("link").get_attribute("href") == f"{host}/late.png"
    await failed.get_by_role("button").click()
    await content.locator("img").wait_for()
    await tab.page.wait_for_function("document.querySelector('.content img').naturalWidth === 1")
    assert await content.locator("img").get_attribute("alt") == "A cat"
    assert calls == ["/late.png", "/late.png"]
    tab.strangers.clear()  # those that were asked for


async def test_an_image_in_the_text_itself_is_shown_at_once(tab: Tab, stub: Stub) -> None:
    content = await shown(tab, stub, f"dot ![a dot]({PNG}) end")
    assert await content.locator("img").evaluate("(i) => i.decode().then(() => i.naturalWidth)") == 1
    assert await content.locator("img").get_attribute("alt") == "a dot"


async def test_audio_and_video_are_recognised_by_their_type(tab: Tab, stub: Stub) -> None:
    content = await shown(
        tab, stub, "![](https://h.invalid/a.mp3?x=1) ![](https://h.invalid/b.mp4) https://h.invalid/c.ogg"
    )
    assert await content.locator(".media-audio").count() == 2
    assert await content.locator(".media-video").count() == 1
    assert await content.locator("audio, video").count() == 0


async def test_a_card_is_readable(tab: Tab, stub: Stub) -> None:
    card = {
        "card_type": 3,
        "response_type": "card",
        "title": "Your parcel",
        "data": json.dumps({"eta": "<b>Monday</b>"}),
    }
    objects = [{"type": "text", "text": "Look:"}, {"type": "image", "file_url": "https://h.invalid/x.png"}]
    stub.behaves(
        events=[
            {"event": "message", "contentType": "card", "content": json.dumps(card)},
            {"event": "message", "contentType": "object_string", "content": json.dumps(objects)},
            {"event": "message", "contentType": "card", "content": "not { json"},
        ]
    )
    await shown(tab, stub, "Text.")
    cards = tab.page.locator(".card")
    assert await cards.first.locator(".card-title").inner_text() == "Your parcel"
    assert "<b>Monday</b>" in await cards.first.inner_text()
    assert "not { json" in await cards.nth(1).inner_text()
    assert await tab.page.locator(".objects .media-ask").count() == 1
    assert await tab.page.locator(".objects").evaluate("(e) => e.clientWidth") > 300  # a player takes its width from it


async def test_a_spoken_answer_becomes_one_player(tab: Tab, stub: Stub) -> None:
    tone = b"".join(struct.pack("<h", int(9000 * math.sin(i / 9))) for i in range(12_000))
    pieces = [tone[i : i + 4_800] for i in range(0, len(tone), 4_800)]
    stub.behaves(events=[{"event": "audio", "content": base64.b64encode(piece).decode()} for piece in pieces])
    await shown(tab, stub, "Listen.")
    player = tab.page.locator(".extras audio")
    length = await player.evaluate(
        "(a) => a.readyState ? a.duration : new Promise((r) => { a.onloadedmetadata = () => r(a.duration); })"
    )
    assert length == pytest.approx(0.5, abs=0.01)
    assert await player.evaluate("(a) => a.clientWidth") > 300


async def test_what_the_bot_does_meanwhile_is_told_in_lines(tab: Tab, stub: Stub) -> None:
    stub.behaves(
        events=[
            {"event": "notice", "code": "retrying", "attempt": 2, "delayMs": 10},
            {"event": "tool", "phase": "call", "name": "weather", "content": '{"city":"Lima"}'},
            {"event": "tool", "phase": "output", "name": "weather", "content": "<i>sunny</i>"},
            {"event": "message", "content": "Wrong start"},
            {"event": "message", "content": "", "replace": True},
        ]
    )
    content = await shown(tab, stub, "It is sunny.")
    assert await content.inner_text() == "It is sunny."
    tools = tab.page.locator(".tools")
    assert "Uses weather" in await tools.inner_text()
    await tools.locator("summary").nth(1).click()
    assert await tools.locator("pre").nth(1).inner_text() == "<i>sunny</i>"


async def test_an_image_in_a_link_stands_behind_it_and_its_click_is_not_the_links(
    tab: Tab, stub: Stub, elsewhere: tuple[str, list[str]]
) -> None:
    host, calls = elsewhere
    content = await shown(tab, stub, f"[![first]({host}/a.png) ![second]({host}/b.png)]({host}/page) [text]({host}/t)")
    assert await content.locator("a .media-ask").count() == 0
    assert await content.locator("a").all_inner_texts() == ["first, second", "text"]
    assert "first" in await content.locator(".media-ask").first.inner_text()
    before = len(tab.page.context.pages)
    await content.locator(".media-ask").first.click()
    await content.locator("img").wait_for()
    await tab.page.wait_for_timeout(200)
    assert calls == ["/a.png"]
    assert len(tab.page.context.pages) == before
    tab.strangers.clear()  # the one that was asked for


@pytest.mark.parametrize("info", ["$'", "$&", "$`", "$$", "a$1b"])
async def test_a_language_that_looks_like_a_replacement_is_only_a_name(tab: Tab, stub: Stub, info: str) -> None:
    fence = "~~~" if "`" in info else "```"
    content = await shown(tab, stub, f'before\n\n{fence}{info}\nabc "x"\n{fence}\n\nafter')
    assert await content.locator(".code-bar span").inner_text() == info
    assert await content.locator("pre").all_inner_texts() == ['abc "x"\n']
    assert await content.locator("p").all_inner_texts() == ["before", "after"]


async def test_objects_are_shown_by_their_type(tab: Tab, stub: Stub) -> None:
    objects = [
        {"type": "text", "text": "see **this**"},
        {"type": "file", "name": "report.pdf", "file_url": "https://h.invalid/report.pdf"},
        {"type": "video", "url": "https://h.invalid/v"},
        {"type": "audio", "url": "https://h.invalid/a"},
        {"type": "image", "url": "https://h.invalid/i.mp4"},
        {"type": "file", "name": "odd", "file_url": "javascript:window.pwned=1"},
        {"type": "file", "file_id": "741"},
    ]
    card = {"title": "One title", "list": [], "map": {}, "note": "kept"}
    stub.behaves(
        events=[
            {"event": "message", "contentType": "object_string", "content": json.dumps(objects)},
            {"event": "message", "contentType": "card", "content": json.dumps(card)},
        ]
    )
    await shown(tab, stub, "Text.")
    shelf = tab.page.locator(".objects")
    assert await shelf.locator("strong").inner_text() == "this"
    link = shelf.get_by_role("link")
    assert [await link.inner_text(), await link.get_attribute("href")] == ["report.pdf", "https://h.invalid/report.pdf"]
    for kind in ("video", "audio", "image"):
        assert await shelf.locator(f".media-{kind}").count() == 1
    assert "odd" in await shelf.inner_text()
    assert "741" in await shelf.inner_text()
    assert await tab.page.locator(".card dt").all_inner_texts() == ["note"]
    assert (await tab.page.locator(".card").inner_text()).count("One title") == 1


async def test_an_output_of_a_tool_says_whose_it_is_when_that_is_known(tab: Tab, stub: Stub) -> None:
    def tool(phase: str, name: str) -> dict[str, str]:
        return {"event": "tool", "phase": phase, "name": name, "content": "{}"}

    stub.behaves(
        events=[
            tool("call", "weather"), tool("output", ""), tool("call", "maps"), tool("call", "news"), tool("output", ""),
            tool("output", ""), tool("output", ""),
        ]
    )  # fmt: skip
    await shown(tab, stub, "Done.")
    lines = await tab.page.locator(".tools summary").all_inner_texts()
    assert lines[:2] == ["Uses weather", "weather answered"]
    assert lines[4:] == ["A plug-in answered", "news answered", "A plug-in answered"]


async def test_labels_and_numbers_follow_the_language(tab: Tab, stub: Stub) -> None:
    tone = base64.b64encode(bytes(9_600)).decode()
    stub.behaves(events=[{"event": "audio", "content": tone}])
    content = await shown(tab, stub, "| a |\n|--|\n| b |\n\n```\ncode\n```\n")
    player = tab.page.locator(".extras audio")
    assert await player.get_attribute("aria-label") == "Spoken answer"
    await tab.page.click("[data-language=zh]")
    words = await tab.page.evaluate("import('/page/words.js').then((m) => m.WORDS.zh)")
    assert await player.get_attribute("aria-label") == words["audio"]
    assert await content.locator(".table-frame").get_attribute("aria-label") == words["table"]
    assert await content.locator(".code-bar span").inner_text() == words["code"]
    await tab.page.click("[data-language=es]")
    times = "import('/page/language.js').then(({ formatTime }) => [7021, 12340].map(formatTime))"
    assert await tab.page.evaluate(times) == ["7,02 s", "12,3 s"]


ODD = [
    ('[{"type":"text","text":{"toString":1}},{"type":"text","text":"after"}]', "object_string", ["toString", "after"]),
    ('["plain words", 7]', "object_string", ["plain words", "7"]),
    ('[{"type":"text","text":' + "[" * 12_000 + "]" * 12_000 + "}]", "object_string", ["[[[[["]),
    ('{"id":7569312240118861864,"price":1.10}', "card", ["7569312240118861864", "1.10"]),
    (str(list(range(500))), "card", ["399", "… and 100 more"]),
    (str(["x"] * 60).replace("'", '"'), "object_string", ["… and 10 more"]),
]


@pytest.mark.parametrize(("content", "kind", "shown"), ODD, ids=range(len(ODD)))
async def test_a_card_of_any_shape_is_shown_as_it_was_written(
    tab: Tab, content: str, kind: str, shown: list[str]
) -> None:
    text = await tab.page.evaluate(
        """async ([content, kind]) => {
            const { structured } = await import("/page/cards.js");
            return structured(content, kind).textContent;
        }""",
        [content, kind],
    )
    for words in shown:
        assert words in text


async def test_a_card_of_many_values_holds_nobody(tab: Tab) -> None:
    took = await tab.page.evaluate(
        """async () => {
            const { structured } = await import("/page/cards.js");
            const rows = Array.from({ length: 60 }, () => Array.from({ length: 60 }, () => Array(60).fill(1)));
            const began = performance.now();
            document.body.append(structured(JSON.stringify({ rows }), "card"));
            document.body.offsetHeight;
            return performance.now() - began;
        }"""
    )
    assert took < 1_000


async def test_what_is_still_written_loads_nothing_and_cannot_be_pressed(tab: Tab) -> None:
    closed, open_ = await tab.page.evaluate(
        """async () => {
            const { OpenBlock } = await import("/page/open-block.js");
            return ["close", "render"].map((act) => {
                const element = document.createElement("div");
                new OpenBlock(element)[act]("![a](https://far.example/a.png) https://far.example/b.mp4?token=ab", {});
                return [...element.querySelectorAll("button, img, video")].map((one) => [one.tagName, one.disabled]);
            });
        }"""
    )
    assert closed == [["BUTTON", False], ["BUTTON", False]]
    assert open_ == [["BUTTON", True], ["BUTTON", True]]


async def test_a_suggestion_of_one_long_word_stays_on_the_screen(tab: Tab, stub: Stub) -> None:
    await tab.page.set_viewport_size({"width": 375, "height": 720})
    stub.behaves(answer=PLAIN, delay=0, suggestions=["https://far.example/" + "path/" * 20, "w" * 200])
    await tab.ask("hi")
    await tab.over()
    await tab.page.locator(".suggestions button").nth(1).wait_for()
    wide = "Math.max(document.documentElement.scrollWidth - innerWidth, scroll.scrollWidth - scroll.clientWidth)"
    assert (
        await tab.page.evaluate(f"(() => {{ const scroll = document.getElementById('scroll'); return {wide}; }})()")
        <= 0
    )


async def test_a_spoken_answer_with_a_damaged_piece_is_heard_without_it(tab: Tab) -> None:
    source = await tab.page.evaluate(
        "import('/page/media.js').then(({ spoken }) => spoken(['AAAA', '%%%', 'AAAA']).firstChild.src)"
    )
    assert source.startswith("blob:")
