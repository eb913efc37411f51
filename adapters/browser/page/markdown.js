/**
 * Markdown to safe elements. Three walls, each enough by itself for scripts: markdown-it writes no markup of the bot's,
 * DOMPurify passes only what is listed here, and the page's policy runs no inline script. Against calling out, the
 * renderer writes no `src` at all: media are marked by data attributes, and `media.js` decides.
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
const LIMIT = 100_000; // characters of code above which highlighting would be felt

DOMPurify.setConfig({
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["class", "data-alt", "data-language", "data-media", "href", "rel", "start", "target"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: LINK,
  ADD_URI_SAFE_ATTR: ["data-alt", "data-language", "data-media", "rel", "start", "target"], // no address is ever fetched from these
  RETURN_DOM_FRAGMENT: true, // elements as they were looked at: no second parsing, which could make others of them
});

let highlighting = false; // open blocks change with every frame; only closed ones are worth the time

const markdown = new MarkdownIt({ html: false, linkify: true, highlight });
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
markdown.validateLink = (url) => LINK.test(url.trim()) || RASTER.test(url.trim());

// Its chain of rules in two halves: the blocks tell what is new, and only there the words are looked at.
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
// A list that becomes loose is the same elements, only further apart; copied, a `p` would put blank lines into every list.
rules.paragraph_open = (tokens, index) => {
  const { meta, hidden } = tokens[index];
  if (!meta) return "<p>";
  return (hidden ? "<div>" : '<div class="loose">') + taskBox(meta);
};
rules.paragraph_close = (tokens, index) => (tokens[index].meta ? "</div>" : "</p>");

/** Marks the paragraphs that stand right in an item of a list. */
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
// Chinese, Japanese and Korean have no blanks to keep a cell's words apart: squeezed, it would be a pillar of single syllables.
const SYLLABLE = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Hangul}\u3000-\u303f\uff00-\uffef]/u;
const LINE = 8; // syllables that a cell holds in one line at least

function roomy(content) {
  if (!SYLLABLE.test(content)) return "";
  return content.length > LINE ? "roomy" : "whole";
}

/** Marks the cells that words may yet be added to without a rendering: what they look like must not depend on their words. */
function markOpenCells(tokens, lines) {
  let row; // its source
  let cell; // its last one so far
  for (const token of tokens) {
    if (token.type === "tr_open") row = lines[token.map[0]];
    else if (token.type === "th_open" || token.type === "td_open") cell = token;
    else if (token.type === "tr_close" && (cell.type === "th_open" || !row.trimEnd().endsWith("|"))) cell.meta = { open: true };
  }
}

// markdown-it aligns cells by a style attribute, which a strict policy refuses and reports.
for (const cell of ["th", "td"]) {
  rules[`${cell}_open`] = (tokens, index) => {
    const align = /text-align:(left|center|right)/.exec(tokens[index].attrGet("style") ?? "");
    const room = tokens[index].meta?.open ? "" : roomy(tokens[index + 1].content);
    const classes = [align ? `align-${align[1]}` : "", room].filter(Boolean).join(" ");
    return classes ? `<${cell} class="${classes}">` : `<${cell}>`;
  };
}

/** The elements of Markdown that will not grow any more. */
export function rendered(source, env) {
  highlighting = true;
  return elements(markdown.render(source, env), true);
}

/**
 * Markdown that is still being written. `html(from)` has its tokens from that one on, in the blocks that are open there.
 * `held` says that not all of it is shown: some may yet become something else.
 * @returns {{blocks: Block[], html: (from: number) => string, held: boolean}}
 *
 * @typedef {object} Block stands for one element; what its element is made of is told by all of these but `from`
 * @property {number} from its first token
 * @property {string} kind
 * @property {string} text its source
 * @property {number} tight how many of its paragraphs are a tight list's
 * @property {Block[]} [inner] what it holds, if those are blocks
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

/** The words that are still being written get what they lack. @returns {boolean} whether some wait for more */
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

/** The marks that close what the emphasis in `text` leaves open. A star behind a letter or a number may be one that multiplies. */
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
    if (nesting < 0 || (nesting === 0 && (hidden || !holder.inner))) continue; // a hidden one is a definition: no element
    const text = holder.inner ? lines.slice(...map).join("\n") : "";
    const block = { from, kind: type + (attrs ?? ""), text, tight: 0, inner: HOLDS_BLOCKS.test(type) ? [] : undefined };
    holder.inner?.push(block);
    if (nesting > 0) open.push(block);
    if (hidden) for (const one of open) one.tight++;
  }
  return root.inner;
}

/** The tokens before `from` that open what it stands in. */
function openAt(tokens, from) {
  const open = [];
  for (const token of tokens.slice(0, from)) {
    if (token.nesting > 0) open.push(token);
    else if (token.nesting < 0) open.pop();
  }
  return open;
}

/** Safe elements, framed, of what the renderer wrote. `closed` says that they will not grow any more. */
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
  boundWords(part); // before they have a direction: a block whose direction is that of its words looks at them for each change
  for (const block of part.children) block.dir = block.matches(".code-frame") ? "ltr" : "auto"; // as its own words are written
  for (const link of part.querySelectorAll("a:has(span[data-media])")) freeMedia(link);
  for (const mark of part.querySelectorAll("span[data-media]")) placeMedia(mark, closed);
  return part;
}

/** Media in a link stand behind it: their buttons would be the link's, too, and open what nobody wanted. */
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
