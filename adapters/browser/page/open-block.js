/**
 * The block at an answer's end, which is still being written. New text that can't be Markdown is appended to the last words
 * on the page. For any other text the block is rendered anew, and the page gets only the difference.
 */
import { boundGrown } from "./long-words.js";
import { elements, growing, rendered } from "./markdown.js";
import { cutAfter, difference, patch, patchAt } from "./patch.js";

// Inside a line that has a letter or a symbol already, none of these characters can be Markdown or part of an address,
// neither alone nor with what may come later. (Before that, "1" may still become a list, and "-" a rule.)
const WORDS = /^[\p{L}\p{M}\p{N}\p{So}\p{Emoji_Modifier}\u200d\ufe0f .,;?!'"(\-，。、；？！“”‘’（）《》…—]*$/u;
const WORD_END = /(?:^|\s)([\p{L}\p{M}\p{N}\p{So}\p{Emoji_Modifier}\u200d\ufe0f.,?!'"(\-，。、；？！“”‘’（）《》…—]*) *$/u;
const PROSE = new Set(["P", "DIV", "TD", "TH", "H1", "H2", "H3", "H4", "H5", "H6", "STRONG", "EM", "S"]);
const FENCE = /^(?:`{3,}[^`\n]*|~{3,}.*)\n/;
const MAYBE_IMAGE = /(?:^|\s)!$/;
const MAYBE_CLOSING = /^ {0,3}(?:`|~)|[\r\0]/m;

export class OpenBlock {
  #closed = null; // the last element of the blocks before it
  #source; // the source that is shown, if known
  #blocks = []; // the blocks of the last rendering
  #references; // the link references of the last rendering
  #held = false; // whether a part of the source is not shown yet
  #last; // the text node in which the block ends

  /** @param {Element} element holds the open block and, once they were closed, the blocks before it */
  constructor(element) {
    this.element = element;
  }

  /** Whether the last rendering was a single list, table or quotation: then nothing is closed until more follows it. */
  get isOne() { return this.#blocks.length === 1 && this.#blocks[0].inner !== undefined; }

  /** Renders the block from the point where it differs from the last rendering. */
  render(source, env) {
    const { blocks, html, held } = growing(withTableBegun(withoutUnderline(source)), env);
    const references = JSON.stringify(env.references ?? {});
    const way = difference(references === this.#references ? this.#blocks : [], blocks);
    patchAt(this.element, this.#closed, way, elements(html(way.from), false));
    [this.#source, this.#blocks, this.#references, this.#last] = [source, blocks, references, undefined];
    this.#held = held;
  }

  /** The blocks in `source`, a beginning of the text, will not change any more. The text behind them is rendered next. */
  close(source, env) {
    this.#closed = patch(this.element, this.#closed, rendered(source, env));
    this.#forget();
  }

  /** The block is complete. */
  end() {
    cutAfter(this.element, this.#closed);
    this.#forget();
  }

  /** All blocks may change again. */
  reopen() {
    this.#closed = null;
    this.#forget();
  }

  #forget() {
    this.#source = this.#last = undefined;
    this.#blocks = [];
  }

  /** Shows `source`, which begins with the text that is shown, if no rendering is needed. @returns whether it did */
  grow(source) {
    if (source === this.#source) return true;
    if (!this.#source) return false;
    const grown = FENCE.test(this.#source) ? this.#growCode(source) : this.#growWords(source);
    if (grown) this.#source = source;
    return grown;
  }

  #growWords(source) {
    const added = source.slice(this.#source.length);
    if (this.#held || !WORDS.test(added) || MAYBE_IMAGE.test(source.slice(-2))) return false;
    if (!this.#last) {
      const line = this.#source.slice(this.#source.lastIndexOf("\n") + 1);
      const word = WORD_END.exec(line)?.[1];
      // Here the text may be part of a definition, which is not shown: [name]: address "title".
      if (word === undefined || !/[\p{L}\p{So}]/u.test(line) || line.includes("\r") || this.#source.includes("]:")) return false;
      const last = lastText(this.element, this.#closed);
      if (!PROSE.has(last?.parentNode.nodeName) || !isEndOf(last.data, word || line.trimEnd().slice(-1))) return false;
      if (/^T[DH]$/.test(last.parentNode.nodeName) && !isInLastCell(line, last.parentNode.parentNode)) return false;
      this.#last = last;
    }
    // Spaces at the end of a line are not shown before something follows them.
    const words = source.slice(this.#source.trimEnd().length).trimEnd();
    if (words) {
      this.#last.appendData(words);
      this.#last = boundGrown(this.#last);
    }
    return true;
  }

  #growCode(source) {
    const lineStart = this.#source.lastIndexOf("\n") + 1;
    if (MAYBE_CLOSING.test(source.slice(lineStart))) return false;
    const shown = code(this.#source);
    if (!this.#last) {
      const last = lastText(this.element, this.#closed);
      if (last?.parentNode.nodeName !== "CODE" || last.data !== shown) return false;
      this.#last = last;
    }
    this.#last.appendData(code(source).slice(shown.length));
    return true;
  }
}

/** The text that an open fence shows: all but its first line, and without blanks with which the last line may begin. */
const code = (source) => source.slice(source.indexOf("\n") + 1).replace(/(^|\n)[ \t]+$/, "$1");

/** Whether a text node ends in a word, or is the last part of a long word. */
const isEndOf = (text, word) => text.endsWith(word) || (text.length < word.length && word.endsWith(text));

/** Whether a table's row ends in its last cell, because Markdown drops cells beyond those of the table's head. */
function isInLastCell(line, row) {
  const bars = line.split("|").length - 1;
  return (line.startsWith("|") ? bars : bars + 1) === row.children.length;
}

/** The text node in which an element ends, if it ends in one that comes after `before`. */
function lastText(element, before = null) {
  const { lastChild } = element;
  if (lastChild === before) return undefined;
  return lastChild.nodeType === Node.ELEMENT_NODE ? lastText(lastChild) : lastChild;
}

/**
 * Characters that may underline a heading are mostly the beginning of a list, so they are not shown until their line ends.
 * Characters that may begin a heading or a numbered list are not shown until that is known, either.
 */
const withoutUnderline = (source) => (FENCE.test(source) ? source : source.replace(MAYBE_BEGINNING, "$1$2"));
const MAYBE_BEGINNING = /(\n)[ \t>]*(?:-+|=+)[ \t]*$|((?:^|\n)[ \t>]*)(?:#{1,6}|[+*]|\d{1,3}(?:[.)][ \t]*)?)$/;

/** Makes a table's head that is still being typed look like a table, by adding the line that would follow it. */
function withTableBegun(source) {
  const gap = source.lastIndexOf("\n\n");
  const start = gap < 0 ? 0 : gap + 2;
  const [head, rule = "", ...more] = source.slice(start).split("\n");
  if (!head.startsWith("|") || more.length || !/^[|:\s-]*$/.test(rule) || /^ {0,3}(?:```|~~~)/m.test(source)) return source;
  const whole = `${head.replace(/[|\s]*$/, "")} |`;
  const columns = whole.split(/(?<!\\)\|/).length - 2;
  if (columns < 1) return source.slice(0, start);
  return `${source.slice(0, start)}${whole}\n|${"---|".repeat(columns)}`;
}
