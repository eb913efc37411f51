/**
 * The block at an answer's end, which is still being written. New text that can't be Markdown is appended to the last words
 * on the page. For any other text the block is rendered anew, and the page gets only the difference.
 */
import { boundGrown } from "./long-words.js";
import { elements, growing, rendered } from "./markdown.js";
import { cutAfter, difference, patch, patchAt } from "./patch.js";

// Neither alone nor with what may come later is one of these a piece of Markdown, or of an address, inside a line that
// has a letter or a symbol already: such a line has become what it is (a bare "1" may yet be a list, a bare "-" a rule).
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
  #held = false; // not all of the source is shown
  #last; // the text node in which it ends

  /** @param {Element} element holds the blocks before it, too, once they were closed */
  constructor(element) {
    this.element = element;
  }

  /** Whether it was one list, table or quotation when it was rendered: until more stands behind it, nothing closes. */
  get isOne() { return this.#blocks.length === 1 && this.#blocks[0].inner !== undefined; }

  /** Renders it from the place where it differs from the last rendering. */
  render(source, env) {
    const { blocks, html, held } = growing(withTableBegun(withoutUnderline(source)), env);
    const references = JSON.stringify(env.references ?? {});
    const way = difference(references === this.#references ? this.#blocks : [], blocks);
    patchAt(this.element, this.#closed, way, elements(html(way.from), false));
    [this.#source, this.#blocks, this.#references, this.#last] = [source, blocks, references, undefined];
    this.#held = held;
  }

  /** The blocks in `source`, with which it begins, will not change any more. What is behind them is to be rendered next. */
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

  /** Shows `source`, which begins with what is shown, if that needs no rendering. @returns whether it did */
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

/** What an open fence shows: all but its first line, and no blanks that the last line may yet begin with. */
const code = (source) => source.slice(source.indexOf("\n") + 1).replace(/(^|\n)[ \t]+$/, "$1");

/** Whether a text node ends in a word, or is the last part of one that is long. */
const isEndOf = (text, word) => text.endsWith(word) || (text.length < word.length && word.endsWith(text));

/** Whether a table's row ends in its last cell: Markdown drops the cells that are more than the table's head has. */
function isInLastCell(line, row) {
  const bars = line.split("|").length - 1;
  return (line.startsWith("|") ? bars : bars + 1) === row.children.length;
}

/** The text node that an element ends in, if it ends in one behind `before`. */
function lastText(element, before = null) {
  const { lastChild } = element;
  if (lastChild === before) return undefined;
  return lastChild.nodeType === Node.ELEMENT_NODE ? lastText(lastChild) : lastChild;
}

/**
 * What may underline a heading is mostly the beginning of a list: until its line ends it is not shown. Nor is what begins
 * a heading or a numbered list, until that is known.
 */
const withoutUnderline = (source) => (FENCE.test(source) ? source : source.replace(MAYBE_BEGINNING, "$1$2"));
const MAYBE_BEGINNING = /(\n)[ \t>]*(?:-+|=+)[ \t]*$|((?:^|\n)[ \t>]*)(?:#{1,6}|[+*]|\d{1,3}(?:[.)][ \t]*)?)$/;

/** A table whose head is still being typed looks like one already: it is given the line that would follow. */
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
