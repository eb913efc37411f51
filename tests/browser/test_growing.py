"""Markdown that is still being written looks as it will, at every cut."""

import os
from random import Random

from tests.browser.conftest import Tab
from tests.browser.test_messages import MARKDOWN, PNG


async def test_a_table_looks_like_one_from_its_first_cell_on(tab: Tab) -> None:
    source = "Intro.\n\n| Way | First |\n|:--|--:|\n| a | b |\n\n```\n\n| code | stays |\n```\n"
    raw = await tab.page.evaluate(
        """async (source) => {
            const { AnswerText } = await import("/page/answer-text.js");
            let [now, due] = [performance.now(), undefined]; // a clock that goes on to whatever is due
            performance.now = () => now;
            window.setTimeout = (act, ms) => { due = { act, at: now + ms }; return 1; };
            const element = document.querySelector("#log");
            const answer = new AnswerText(element);
            const raw = [];
            for (let end = 1; end <= source.length; end++) {
                answer.set(source.slice(0, end));
                while (answer.typing) {
                    now = Math.max(now, due.at);
                    due.act();
                }
                const prose = [...element.querySelectorAll("p, td, th")].map((e) => e.textContent).join(" ");
                if (prose.includes("|")) raw.push(prose);
            }
            answer.finish(true);
            return [raw, element.querySelector("pre").textContent, element.querySelectorAll("table").length];
        }""",
        source,
    )
    assert raw == [[], "\n| code | stays |\n", 1]


PARTS = [
    *("some plain words", "word", "a", "1", "12.", "3)", "don't", "(so)", "été", "你好，", "世界。", "🌍"),
    *("- ", "* ", "+ ", "1. ", "  - ", "    ", "\t", "> ", "# ", "## Head ", "#", "=", "===", "---", "***"),
    *("\n", "\n", "\n", "\n\n", "\n\n", "\r\n", " ", " ", " ", "  ", "  \n", "\\\n", "\\", "\0", "\u00a0", "\u3000"),
    *("**", "*", "_", "__", "~~", "`", "``", "```", "~~~", "```py\n", "\n```\n", "\n~~~\n"),
    *("[a](", "[name]", "]: ", "[name]: ", "](", ")", "(", "[", "]", "![", "![x](https://h.invalid/x.png)", "!"),
    *("https://h.invalid/a", "http://", "https:", "mailto:a@b.c", "www.h.invalid", "//h.invalid", ":", "/", "?", "."),
    *("$", "$$", "$$\n", "$a_1*b$", "\\(", "\\)", "\\[", "\\[\n", "\\]", "\\]\n", "- [ ] ", "[x] "),
    *("<", ">", "<b>", "&amp;", "&", ";", "&am", "p;", "|", "| ", " | ", "| a | b |\n", "|--|--|\n", "|:-", '"', ","),
]


DOCUMENTS = int(os.environ.get("DOCUMENTS", "160"))
"""How many random documents are tried: thousands after the page's Markdown has changed."""

ROWS = [
    *(
        "- one **bold** item\n",
        "- [a](https://h.invalid/a)\n",
        "* star\n",
        "1. first\n",
        "2) second\n",
        "  - inner `code`\n",
    ),
    *(
        "\n",
        "  more of it\n",
        "lazy\n",
        "      code\n",
        "  ```\n  x\n  ```\n",
        "  | a |\n  |---|\n  | b |\n",
        "> said\n",
    ),
    *("- [name]\n", "- [name]: https://h.invalid/\n", "- ![x](https://h.invalid/x.png)\n", "-\n", "# Head\n", "---\n"),
]
CELLS = [
    "| one | **two** |\n",
    "| `x` |\n",
    "no bars\n",
    "| a | b | c |\n",
    "||\n",
    "| [l](https://h.invalid/) | y\n",
    "\n",
]


async def test_a_block_that_grows_looks_like_the_same_block_rendered_anew(tab: Tab) -> None:
    """By words or by a rendering that keeps what is the same, at every cut of pieces of Markdown in any order."""
    random = Random(8)
    documents = ["".join(random.choices(PARTS, k=random.randrange(4, 30))) for _ in range(DOCUMENTS)]
    # What growing could get wrong: a blank that may begin a line of code, a cell too many, text that is a definition.
    documents += ["```py\nx\n y", "| one |\n|--|\n| a | a a a a a a a a"]
    documents += ['- "a"\n\n[name]: https://h.invalid "a"' + " " * 8 + "or not"]
    documents += [f"{MARKDOWN}\n\nMore **and** more words, then `code` and words."]
    documents += ["| 甲 | b 你好\n|--|--|\n| c | d 你好 世界 天下 的 话 很长 很长 很长 |\n| 一 | 二 三 四 五\n| 六"]
    # Lists and tables, of which only the end is rendered anew: until they are loose, or another, or no list any more.
    documents += ["".join(random.choices(ROWS, k=random.randrange(4, 30))) for _ in range(DOCUMENTS // 2)]
    documents += ["| a | b |\n|:-|-:|\n" + "".join(random.choices(CELLS, k=40)) for _ in range(DOCUMENTS // 6)]
    grown = await tab.page.evaluate(
        """async (documents) => {
            const { OpenBlock } = await import("/page/open-block.js");
            let grown = 0;
            for (const [nth, source] of documents.entries()) {
                const open = new OpenBlock(document.createElement("div"));
                for (let end = 0, step = 0; end < source.length; step++) {
                    end = Math.min(end + 1 + ((nth + step * step) % 7), source.length);
                    const shown = source.slice(0, end);
                    if (open.grow(shown)) grown++;
                    else open.render(shown, {});
                    const whole = new OpenBlock(document.createElement("div"));
                    whole.render(shown, {});
                    const [got, expected] = [open.element.cloneNode(true), whole.element];
                    got.normalize();
                    if (!got.isEqualNode(expected)) return { shown, got: got.innerHTML, expected: expected.innerHTML };
                }
            }
            return grown;
        }""",
        documents,
    )
    assert isinstance(grown, int), grown
    assert grown > DOCUMENTS


ATOMS = [
    *(
        "**bold**",
        "**two bold words**",
        "*thin*",
        "***both***",
        "_under_",
        "__strong__",
        "~~gone~~",
        "*a **b** c*",
        "**重点**：内容",
    ),
    *(
        "`code`",
        "`` a ` b ``",
        "`x = a[0] * 2`",
        "**bold `code` in**",
        "这是**重点**内容",
        "“*引*”",
        "\\*star\\*",
        "2 * 3 * 4",
        "a_b_c",
    ),
    *(
        "[a link](https://h.invalid/a_b_c)",
        "[**bold** link](https://h.invalid/)",
        '[titled](https://h.invalid/ "a title")',
    ),
    *(f"![picture]({PNG})", "[![p](https://h.invalid/p.png)](https://h.invalid/)", "**[linked](https://h.invalid/)**"),
    *(
        "https://h.invalid/x_y",
        "<https://h.invalid/z>",
        "&amp;",
        "&lt;b&gt;",
        "[1]",
        "[see below]",
        "array[0]",
        "(so)",
        "Great!",
    ),
    *(
        "it's",
        "R&D",
        "A < B",
        "<b>",
        "$a_1 * b_1 * c$",
        "\\(x_1 * y_2 * z\\)",
        "$5 and $10",
        "50%",
        "#1",
        "C#",
        "~5",
        "words",
    ),
]
STARTS = ["", "", "- ", "1. ", "## ", "> ", "> > ", "- [ ] ", "- [x] ", "  - ", "| a | b |\n|--|--|\n| "]


def _typed_document(random: Random) -> str:
    lines = [
        random.choice(STARTS[:-1]) + " ".join(random.choices(ATOMS, k=random.randrange(1, 7)))
        for _ in range(random.randrange(1, 5))
    ]
    return random.choice(["\n\n", "\n"]).join(lines)


async def test_no_mark_is_shown_that_goes_again_when_its_markdown_is_complete(tab: Tab) -> None:
    """At every character what is shown is the beginning of what is shown in the end; maths is closed in advance."""
    random = Random(13)
    documents = [start + atom for start in STARTS for atom in ATOMS]
    documents += [_typed_document(random) for _ in range(DOCUMENTS // 2)]
    wrong = await tab.page.evaluate(
        """async (documents) => {
            const { OpenBlock } = await import("/page/open-block.js");
            const { rendered } = await import("/page/markdown.js");
            const text = (element) => element.textContent.replace(/\\s+/g, "");
            const wrong = [];
            for (const source of documents) {
                const whole = document.createElement("div");
                whole.append(rendered(source, {}));
                const final = text(whole);
                const open = new OpenBlock(document.createElement("div"));
                for (let end = 1; end <= source.length; end++) {
                    if (!open.grow(source.slice(0, end))) open.render(source.slice(0, end), {});
                    const shown = text(open.element);
                    if (final.startsWith(shown) || final.startsWith(shown.replace(/(?:\\$|\\\\\\))$/, ""))) continue;
                    wrong.push([source.slice(0, end), shown.slice(-40), final]);
                    break;
                }
            }
            return wrong;
        }""",
        documents,
    )
    assert wrong == []


async def test_blocks_closed_one_by_one_look_like_the_whole_document(tab: Tab) -> None:
    random = Random(3)
    documents = ["".join(random.choices(PARTS, k=random.randrange(4, 40))) for _ in range(1_000)]
    documents = [document for document in documents if "]:" not in document]  # definitions are rendered at the end
    # A line end of Windows, a closing fence that is none, a list that goes on.
    documents += ["a\r\n- \r\n\nb\n==\r\n\r\nc\r\n", "~~~\n    ~~~\n\n# no head\n", "- a\n\n- b\n\n  c\n"]
    closed, different = await tab.page.evaluate(
        """async (documents) => {
            const { closedLength, rendered } = await import("/page/markdown.js");
            const html = (source) => {
                const element = document.createElement("div");
                element.append(rendered(source, {}));
                return element.innerHTML;
            };
            let blocks = 0;
            for (const source of documents) {
                let [closed, got] = [0, ""];
                for (let end = source.indexOf("\\n") + 1; end; end = source.indexOf("\\n", end) + 1) {
                    const length = closedLength(source.slice(closed, end));
                    if (!length) continue;
                    got += html(source.slice(closed, closed + length));
                    closed += length;
                    blocks++;
                }
                got += html(source.slice(closed));
                if (got !== html(source)) return [blocks, { source, got, expected: html(source) }];
            }
            return [blocks, null];
        }""",
        documents,
    )
    assert different is None
    assert closed > 400
