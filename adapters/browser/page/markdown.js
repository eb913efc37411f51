/**
 * Markdown to safe elements. Each of three walls stops scripts by itself: markdown-it writes none of the bot's markup,
 * DOMPurify passes only what is listed here, and the page's policy runs no inline script. So that no text can make the
 * page send requests, the renderer writes no `src` at all: it marks media by data attributes, and `media.js` decides.
 */
import DOMPurify from "./vendor/dompurify.js";
import hljs from "./vendor/highlight.js";
import MarkdownIt from "./vendor/markdown-it.js";
import { copyButton, make, say } from "./dom.js";
import { t } from "./language.js";
import { boundWords } from "./long-words.js";
import { maths } from "./maths.js";
import { mediaKind, placeMedia } from "./media.js";
import { plain } from "./plain.js";
import { taskBox, tasks } from "./tasks.js";
import { finished } from "./unfinished.js";

const RASTER = /^data:image\/(?:png|jpeg|gif|webp|avif);base64,/i;
const LINK = /^(?:https?:\/\/|mailto:)/i;
const LIMIT = 100_000; // characters of code; highlighting more would take noticeably long

DOMPurify.setConfig({
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["class", "data-alt", "data-language", "data-media", "href", "rel", "start", "target"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: LINK,
  ADD_URI_SAFE_ATTR: ["data-alt", "data-language", "data-media", "rel", "start", "target"], // no address in these is ever fetched
  RETURN_DOM_FRAGMENT: true, // the checked elements themselves: parsing them again could produce others
});

let highlighting = false; // only for closed blocks: open ones change with every frame

const markdown = new MarkdownIt({ html: false, linkify: true, highlight });
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
markdown.validateLink = (url) => LINK.test(url.trim()) || RASTER.test(url.trim());

// markdown-it's rules in two halves: the blocks show what is new, and only there the words are parsed.
const [blocks, words] = [new markdown.core.constructor(), new markdown.core.constructor()];
blocks.ruler.enableOnly(["normalize", "block"]);
words.ruler.disable(["normalize", "block"]);
maths(markdown);
tasks([markdown.core, words]);
plain(markdown, [markdown.core, blocks], [markdown.core, words]);
for (const chain of [markdown.core, blocks]) chain.ruler.after("block", "items", markItems);

function highlight(code, info) {
  const language = info.split(/\s/)[0];
  if (!highlighting || code.length > LIMIT || !hljs.getLanguage(language)) return "";
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}

const rules = markdown.renderer.rules;
const escape = markdown.utils.escapeHtml;

rules.image = (tokens, index) => {
  const token = tokens[index];
  return `<span class="media" data-media="${escape(token.attrGet("src"))}" data-alt="${escape(token.content)}"></span>`;
};
rules.link_open = (tokens, index) => {
  const href = tokens[index].attrGet("href");
  return `<a href="${escape(href)}" target="_blank" rel="noopener noreferrer nofollow">`;
};
rules.link_close = (tokens, index) => {
  let open = index;
  while (tokens[open].type !== "link_open") open--;
  const href = tokens[open].attrGet("href");
  const kind = mediaKind(href);
  return kind === "audio" || kind === "video" ? `</a><span class="media" data-media="${escape(href)}" data-alt=""></span>` : "</a>";
};
// A list that becomes loose keeps its elements, only further apart. With a `p` in each item, copied lists would have blank lines.
rules.paragraph_open = (tokens, index) => {
  const { meta, hidden } = tokens[index];
  if (!meta) return "<p>";
  return (hidden ? "<div>" : '<div class="loose">') + taskBox(meta);
};
rules.paragraph_close = (tokens, index) => (tokens[index].meta ? "</div>" : "</p>");

/** Marks the paragraphs that are direct children of a list's item. */
function markItems({ tokens }) {
  const open = [];
  for (const token of tokens) {
    if (token.nesting < 0) open.pop();
    const holder = open.at(-1);
    if (token.type.startsWith("paragraph_") && holder?.type === "list_item_open") token.meta = {};
    if (token.nesting > 0) open.push(token);
  }
}

const fence = rules.fence;
rules.fence = (...given) => {
  const language = given[0][given[1]].info.trim().split(/\s/)[0];
  return fence(...given).replace("<pre>", () => `<pre data-language="${escape(language)}">`); // "$&" in it is the bot's text
};
// Chinese, Japanese and Korean have no blanks between words: a narrow cell would become a column of single characters.
const SYLLABLE = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Hangul}\u3000-\u303f\uff00-\uffef]/u;
const LINE = 8; // a cell's line holds at least so many characters

function roomy(content) {
  if (!SYLLABLE.test(content)) return "";
  return content.length > LINE ? "roomy" : "whole";
}

/** Marks the cells to which words may be added without a rendering, so that their look does not depend on their words. */
function markOpenCells(tokens, lines) {
  let row; // the source of the row
  let cell; // the row's last cell so far
  for (const token of tokens) {
    if (token.type === "tr_open") row = lines[token.map[0]];
    else if (token.type === "th_open" || token.type === "td_open") cell = token;
    else if (token.type === "tr_close" && (cell.type === "th_open" || !row.trimEnd().endsWith("|"))) cell.meta = { open: true };
  }
}

// markdown-it aligns cells by a style attribute, which a strict policy blocks and reports.
for (const cell of ["th", "td"]) {
  rules[`${cell}_open`] = (tokens, index) => {
    const align = /text-align:(left|center|right)/.exec(tokens[index].attrGet("style") ?? "");
    const room = tokens[index].meta?.open ? "" : roomy(tokens[index + 1].content);
    const classes = [align ? `align-${align[1]}` : "", room].filter(Boolean).join(" ");
    return classes ? `<${cell} class="${classes}">` : `<${cell}>`;
  };
}

/** The elements of a Markdown text that is complete. */
export function rendered(source, env) {
  highlighting = true;
  return elements(markdown.render(source, env), true);
}

/**
 * Markdown that is still being written. `html(from)` renders its tokens from `from` on, inside the blocks that are open
 * there. `held` says that a part of the text is not shown, because it may still become something else.
 * @returns {{blocks: Block[], html: (from: number) => string, held: boolean}}
 *
 * @typedef {object} Block stands for one element; all of its fields except `from` tell how the element is made
 * @property {number} from its first token
 * @property {string} kind
 * @property {string} text its source
 * @property {number} tight how many of its paragraphs are a tight list's
 * @property {Block[]} [inner] the blocks inside it, if it holds blocks
 */
export function growing(source, env) {
  highlighting = false;
  const state = new markdown.core.State(source, markdown, env);
  blocks.process(state);
  const { tokens } = state;
  const lines = state.src.split("\n");
  markOpenCells(tokens, lines);
  const held = finishLast(tokens, state.src, env);
  const html = (from) => {
    state.tokens = [...openAt(tokens, from), ...tokens.slice(from)];
    words.process(state);
    return markdown.renderer.render(state.tokens, markdown.options, env);
  };
  return { blocks: tree(tokens, lines), html, held };
}

const ENDED_BY_LINE = new Set(["heading_open", "th_open", "td_open"]);

/** Completes words that are still being written. @returns {boolean} whether some of them are held back */
function finishLast(tokens, source, env) {
  const last = tokens.findLastIndex(({ nesting, type, content }) => !(nesting < 0 || (type === "inline" && !content) || /^t[dh]_open$/.test(type)));
  const token = tokens[last];
  if (token?.type !== "inline") return false;
  const lines = token.content.slice(token.content.lastIndexOf("\n") + 1);
  const over = ENDED_BY_LINE.has(tokens[last - 1].type) ? /\n[ \t>]*$/ : /\n[ \t>]*\n[ \t>]*$/;
  if (over.test(source) || !source.trimEnd().endsWith(lines)) return false;
  const whole = finished(token.content, (text) => unmatched(text, env));
  const held = !whole.startsWith(token.content) || /[^*_~]/.test(whole.slice(token.content.length));
  token.content = whole;
  return held;
}

/** The characters that close the emphasis that `text` leaves open. A star after a letter or a number may be a multiplication. */
function unmatched(text, env) {
  if (!/[*_~]/.test(text)) return "";
  const state = new markdown.inline.State(text, markdown, env, []);
  markdown.inline.tokenize(state);
  const [balance] = markdown.inline.ruler2.getRules("");
  balance(state);
  let marks = "";
  for (const { marker, open, end, token } of state.delimiters.toReversed()) {
    const before = state.tokens[token - 1]?.content.at(-1) ?? "";
    if (!open || end >= 0 || (marker === 42 && /[A-Za-z0-9]/.test(before) && state.tokens[token + 1]?.content !== "*")) continue;
    marks += String.fromCharCode(marker).repeat(marker === 126 ? 2 : 1);
  }
  return marks;
}

const HOLDS_BLOCKS = /^(?:bullet_list|ordered_list|list_item|blockquote|table|tbody)_open$/;

function tree(tokens, lines) {
  const root = { inner: [] };
  const open = [root];
  for (const [from, { type, nesting, map, attrs, hidden }] of tokens.entries()) {
    const holder = open.at(-1);
    if (nesting < 0) open.pop();
    if (nesting < 0 || (nesting === 0 && (hidden || !holder.inner))) continue; // a hidden token is a definition and has no element
    const text = holder.inner ? lines.slice(...map).join("\n") : "";
    const block = { from, kind: type + (attrs ?? ""), text, tight: 0, inner: HOLDS_BLOCKS.test(type) ? [] : undefined };
    holder.inner?.push(block);
    if (nesting > 0) open.push(block);
    if (hidden) for (const one of open) one.tight++;
  }
  return root.inner;
}

/** The tokens before `from` that open the blocks around it. */
function openAt(tokens, from) {
  const open = [];
  for (const token of tokens.slice(0, from)) {
    if (token.nesting > 0) open.push(token);
    else if (token.nesting < 0) open.pop();
  }
  return open;
}

/** Makes safe elements of the renderer's output, with frames. `closed`: the text is complete. */
export function elements(html, closed) {
  const part = document.adoptNode(DOMPurify.sanitize(html));
  for (const holder of [part, ...part.querySelectorAll("ul, ol, li, blockquote, table, thead, tbody, tr")]) {
    for (const node of [...holder.childNodes]) if (node.nodeType === Node.TEXT_NODE) node.remove(); // line ends
  }
  for (const pre of part.querySelectorAll("pre")) frameCode(pre);
  for (const table of part.querySelectorAll("table")) {
    const frame = make("div", { class: "table-frame", tabindex: "0", role: "group", "data-t-label": "table", "aria-label": t("table") });
    table.replaceWith(frame);
    frame.append(table);
  }
  boundWords(part); // before they get `dir=auto`, because with it the browser reads a block's words again at each change
  for (const block of part.children) block.dir = block.matches(".code-frame") ? "ltr" : "auto"; // as the block's own words are written
  for (const link of part.querySelectorAll("a:has(span[data-media])")) freeMedia(link);
  for (const mark of part.querySelectorAll("span[data-media]")) placeMedia(mark, closed);
  return part;
}

/** Moves media in a link behind the link: a click on their buttons would otherwise open the link, too. */
function freeMedia(link) {
  const marks = [...link.querySelectorAll("span[data-media]")];
  link.after(...marks);
  if (!link.textContent.trim()) link.append(marks.map((mark) => mark.dataset.alt).filter(Boolean).join(", ") || link.href);
}

function frameCode(pre) {
  const { language } = pre.dataset;
  pre.tabIndex = 0;
  const bar = make("div", { class: "code-bar" }, language ? make("span", {}, language) : say("span", "code"), copyButton(() => pre.textContent));
  const frame = make("div", { class: "code-frame" }, bar);
  pre.replaceWith(frame);
  frame.append(pre);
}

const ENDED_BY_BLANK = new Set(["paragraph_open", "heading_open", "table_open", "blockquote_open", "hr", "maths_block"]);

/**
 * How many characters of `source` belong to blocks that nothing coming later can change: all but the last block, and the
 * last one too if it is fenced code with its closing fence, or of a kind that a blank line ends and has one. `source` must end with a whole line.
 */
export function closedLength(source) {
  const tokens = [];
  const text = source.replace(/\r\n/g, " \n").replace(/\r/g, "\n"); // as Markdown reads it, and as long
  markdown.block.parse(text, markdown, {}, tokens);
  const last = tokens.findLast((token) => token.level === 0 && token.nesting >= 0 && token.map);
  if (!last) return 0;
  const lines = text.split("\n");
  const closed = isClosed(last, lines) ? lines.length - 1 : last.map[0];
  let length = 0;
  for (let i = 0; i < closed; i++) length += lines[i].length + 1;
  return Math.min(length, source.length);
}

function isClosed({ type, map: [begin, end], markup }, lines) {
  if (type === "fence") {
    const ending = /^ {0,3}(`+|~+)[ \t]*$/.exec(lines[end - 1])?.[1] ?? "";
    return end - begin > 1 && ending.startsWith(markup);
  }
  return ENDED_BY_BLANK.has(type) && /^[ \t]*$/.test(lines.at(-2));
}
