/**
 * Maths, left exactly as it was written: text in `$…$`, `$$…$$`, `\(…\)` and `\[…\]` is not read as Markdown, so that
 * `$a_1 * b_1$` keeps its signs and `\(x\)` its backslashes.
 */

const CLOSING = { $: "$", $$: "$$", "\\(": "\\)", "\\[": "\\]" };
const LOOKS_LIKE_MATHS = /\\[a-zA-Z]|\^|_[\d{]|\b[a-zA-Z]_[a-zA-Z]\b/; // and not only like the name of a variable

/** The delimiter that opens maths at `at`, if there is one. A dollar may also be money, or part of a name. */
function openingAt(text, at) {
  const two = text.slice(at, at + 2);
  if (two === "\\(" || two === "\\[" || two === "$$") return two;
  if (text[at] !== "$" || !/\S/.test(text[at + 1] ?? "") || /[\w$]/.test(text[at - 1] ?? "")) return undefined;
  return "$";
}

function closingAfter(text, from, opening) {
  const closing = CLOSING[opening];
  for (let at = text.indexOf(closing, from); at >= 0; at = text.indexOf(closing, at + 1)) {
    if (opening === "\\[" && text[at + 2] === "(") continue; // an escaped link
    if (opening !== "$") return at + 2;
    if (text[at - 1] === "\\") continue;
    return /\s/.test(text[at - 1]) || /[\d$]/.test(text[at + 1] ?? "") ? 0 : at + 1; // no maths: the dollar belongs to the next price
  }
  return -1;
}

/**
 * The end of the maths that begins at `at`: the index after its closing delimiter; `Infinity` if the delimiter may still
 * come; 0 if no maths begins there. `none` remembers delimiters that are never closed, so that a text that only opens
 * maths is searched once.
 */
export function mathsEnd(text, at, none) {
  const opening = openingAt(text, at);
  if (!opening) return 0;
  const end = none[opening] ? -1 : closingAfter(text, at + opening.length, opening);
  if (end >= 0) return end;
  if (none[opening]) return 0;
  none[opening] = true;
  return opening !== "$" || (!/\d/.test(text[at + 1]) && LOOKS_LIKE_MATHS.test(text.slice(at))) ? Infinity : 0;
}

/** `text` with the maths that begins at `at` closed. A part of the closing delimiter may be there already. */
export function closedMaths(text, at) {
  const closing = CLOSING[openingAt(text, at)];
  return text.trimEnd().replace(closing[0] === "$" ? /\$$/ : /\\$/, "").trimEnd() + closing;
}

/** Adds the rules for maths to markdown-it. */
export function maths(markdown) {
  markdown.inline.ruler.before("escape", "maths", (state, silent) => {
    const { src, pos } = state;
    const code = src.charCodeAt(pos);
    if (code !== 36 && code !== 92) return false;
    const end = mathsEnd(src, pos, (state.mathsNotClosed ??= {}));
    if (!end || end > state.posMax) return false;
    if (!silent) state.push("text_special", "", 0).content = src.slice(pos, end);
    state.pos = end;
    return true;
  });
  markdown.block.ruler.before("fence", "maths_block", block, { alt: ["paragraph", "blockquote", "list"] });
  markdown.renderer.rules.maths_block = (tokens, index) => `<p class="maths">${markdown.utils.escapeHtml(tokens[index].content)}</p>\n`;
}

/**
 * Lines of maths, up to the line with the closing delimiter, or, as long as there is none, up to a blank line. Text that
 * comes later may not change how they are read, because they may be on the page for good by then.
 */
function block(state, startLine, endLine, silent) {
  if (state.sCount[startLine] - state.blkIndent >= 4) return false;
  const line = (nth) => state.src.slice(state.bMarks[nth] + state.tShift[nth], state.eMarks[nth]).trimEnd();
  const opening = line(startLine).slice(0, 2);
  if (opening !== "$$" && opening !== "\\[") return false;
  const rest = line(startLine).slice(2);
  const closed = rest.indexOf(CLOSING[opening]);
  if (closed >= 0) return closed === rest.length - 2 && put(state, startLine, startLine + 1, silent); // otherwise words follow it
  let next = startLine + 1;
  for (; next < endLine && !state.isEmpty(next) && state.sCount[next] >= state.blkIndent; next++) {
    if (line(next).includes(CLOSING[opening])) return put(state, startLine, next + 1, silent);
  }
  return put(state, startLine, next, silent);
}

function put(state, startLine, nextLine, silent) {
  if (silent) return true;
  const token = state.push("maths_block", "p", 0);
  token.content = state.getLines(startLine, nextLine, state.blkIndent, false).trim();
  token.map = [startLine, nextLine];
  state.line = nextLine;
  return true;
}
