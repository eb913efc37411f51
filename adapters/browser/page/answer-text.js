/**
 * One answer's text on the page, shown as if it were typed. The text that has arrived (`text`) is ahead of the text that is
 * shown. Each step shows a share of the difference, so that bursts look the same as single pieces. Closed blocks are
 * rendered once and then stay as they are; the open block at the end grows by words, and is rendered again only for new
 * Markdown.
 */
import { closedLength } from "./markdown.js";
import { OpenBlock } from "./open-block.js";

const CATCH_UP_MS = 120; // time constant of the typing
const STEP_MS = 40; // between two steps: each costs a frame, and 25 per second look like typing
const MOST = 20_000; // characters of one step, which would otherwise hold the page where a very long text came at once
const LATE_MS = 60; // a step later than this was delayed by the browser: the text of that time is typed, too
const PAUSE_MS = 120; // between two renderings of the open block, however short it is
const PAUSE_CHARACTERS = 60; // fewer new characters than this wait for the next rendering
const LONG_PAUSE_MS = 400; // but no longer than this
const SHARE = 64; // renderings take at most this part of the time, unless the pause would exceed the longest
const AT_ONCE = 12; // so few more characters are rendered together with the others

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class AnswerText {
  text = "";
  #arrived = ""; // what `text` will be at the next step: comparing the whole text for every piece would cost more than showing it
  #shown = 0;
  #closed = 0;
  #checked = 0;
  #env = {};
  #finished = false;
  #timer;
  #lastStep = 0;
  #renderAt = 0; // when the open block may be rendered again
  #renderedAt = 0; // when it was rendered last
  #rendered = 0; // how much of the text was shown then
  #open;

  constructor(element) {
    this.element = element;
    this.#open = new OpenBlock(element);
  }

  /** Sets the whole text so far. A text that differs is typed from the place where it differs. */
  set(text) {
    if (text !== this.#arrived) delete this.element.dataset.typed;
    this.#arrived = text;
    this.#schedule();
  }

  /** No more text comes. With `atOnce` all of it is shown now, without typing. */
  finish(atOnce = false) {
    this.#finished = true;
    if (!atOnce) return this.#schedule();
    return this.#step(Infinity);
  }

  get typing() { return this.#timer !== undefined; }

  /** The text has changed: goes back to the place where it differs. */
  #restart() {
    this.#shown = commonLength(this.text.slice(0, this.#shown), this.#arrived);
    this.#rendered = this.#closed = this.#checked = this.#renderAt = 0;
    this.#env = {};
    delete this.element.dataset.typed;
    this.#open.reopen();
  }

  #schedule(at = this.#lastStep + STEP_MS) {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const now = performance.now();
      const elapsed = Math.min(now, at + LATE_MS) - this.#lastStep;
      this.#lastStep = now;
      this.#step(elapsed);
    }, at - performance.now());
  }

  #step(elapsed) {
    if (!this.#arrived.startsWith(this.text.slice(0, this.#shown))) this.#restart();
    this.text = this.#arrived;
    const behind = this.text.length - this.#shown;
    if (behind) {
      const share = Math.ceil(behind * (1 - Math.exp(-elapsed / CATCH_UP_MS)));
      const atOnce = calm.matches || elapsed === Infinity;
      this.#shown += atOnce ? behind : Math.max(Math.min(share, MOST), 1);
      if (isHalf(this.text, this.#shown)) this.#shown++;
    }
    if (!this.#finished || this.#shown < this.text.length) {
      if (this.#open.grow(this.text.slice(this.#closed, this.#shown))) return this.#goOn();
      const now = performance.now();
      if (now < this.#mayRenderAt()) return this.#schedule(Math.max(now + 2 * STEP_MS, this.#renderAt));
      if (this.text.length - this.#shown <= AT_ONCE) this.#shown = this.text.length;
    }
    const final = this.#finished && this.#shown === this.text.length;
    this.#closeWhatIsClosed();
    const began = performance.now();
    if (final) this.#endAll();
    else this.#renderOpen();
    const now = performance.now();
    this.#renderAt = began + Math.min(Math.max((now - began) * SHARE, PAUSE_MS), LONG_PAUSE_MS);
    this.#renderedAt = began;
    this.#rendered = this.#shown;
    return this.#goOn();
  }

  /** The pause is longer while there is little new text, so that a slow answer costs no more than a fast one. */
  #mayRenderAt() {
    const little = !this.#finished && this.#shown - this.#rendered < PAUSE_CHARACTERS;
    return little && this.#rendered ? Math.max(this.#renderAt, this.#renderedAt + LONG_PAUSE_MS) : this.#renderAt;
  }

  #goOn() {
    if (this.#shown < this.text.length) this.#schedule();
  }

  #closeWhatIsClosed() {
    const lineEnd = this.text.lastIndexOf("\n", this.#shown - 1) + 1;
    if (lineEnd <= this.#checked || this.#open.isOne) return;
    this.#checked = lineEnd;
    this.#close(closedLength(this.text.slice(this.#closed, lineEnd)));
  }

  #renderOpen() {
    // A definition cut off in mid-address must not be remembered: an env of its own for each look at the open block.
    this.#open.render(this.text.slice(this.#closed, this.#shown), { references: { ...this.#env.references } });
  }

  /** All is there. A link may name a definition that comes after it: such a text is rendered once more as a whole. */
  #endAll() {
    if (definesReferences(this.text)) {
      this.#env = {};
      this.#closed = 0;
      this.#open.reopen();
    }
    this.#close(this.text.length - this.#closed);
    this.#open.end();
    this.element.dataset.typed = "whole";
  }

  #close(length) {
    if (!length) return;
    this.#open.close(this.text.slice(this.#closed, this.#closed + length), this.#env);
    this.#closed += length;
  }
}

/** Whether a line may define a reference, also in a quotation or a list. */
const definesReferences = (text) => /^[ \t>*+\-\d.)]*\[(?:\\.|[^\]\\\n])+\]:/m.test(text);

/** The length of the common beginning of two texts. */
function commonLength(one, other) {
  let length = 0;
  while (length < one.length && one[length] === other[length]) length++;
  return isHalf(one, length) ? length - 1 : length;
}

/** Whether cutting `text` at `index` would halve a character outside the basic plane. */
function isHalf(text, index) {
  const code = text.charCodeAt(index);
  return index < text.length && code >= 0xdc00 && code <= 0xdfff;
}
