/**
 * One answer's text on the page, as if typed. What has arrived (`text`) runs ahead of what is shown; each frame shows a
 * share of the difference, so pieces in bursts and pieces one by one look alike. Blocks that are closed are rendered
 * once and never touched again; only the open one at the end is, at most once a frame.
 */
import { closedLength, render } from "./markdown.js";

const CATCH_UP_MS = 120; // time constant of the typing
const SHARE = 16; // rendering takes at most a sixteenth of the time, however long the open block

const waiting = new Set();
let frame = 0;
let lastFrame = 0;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function schedule(answer) {
  waiting.add(answer);
  frame ||= requestAnimationFrame(paint);
}

function paint(now) {
  frame = 0;
  const elapsed = Math.min(now - lastFrame, 100);
  lastFrame = now;
  for (const answer of [...waiting]) if (answer.paint(now, elapsed)) waiting.delete(answer);
  if (waiting.size) frame ||= requestAnimationFrame(paint);
}

export class AnswerText {
  text = "";
  #shown = 0;
  #closed = 0;
  #checked = 0;
  #env = {};
  #finished = false;
  #nextAt = 0;
  #open = document.createElement("div");

  constructor(element) {
    this.element = element;
    element.append(this.#open);
  }

  /** The whole text so far. It grows at its end; anything else begins anew. */
  set(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text.slice(0, this.#shown))) this.#restart();
    this.text = text;
    schedule(this);
  }

  /** Nothing more will come. `atOnce`: show it now, without typing it. */
  finish(atOnce = false) {
    this.#finished = true;
    if (atOnce) {
      this.#shown = this.text.length;
      this.#nextAt = 0;
      this.paint(performance.now(), 0);
    } else schedule(this);
  }

  get typing() { return this.#shown < this.text.length; }

  #restart() {
    this.#shown = this.#closed = this.#checked = 0;
    this.#env = {};
    delete this.element.dataset.typed;
    this.element.replaceChildren((this.#open = document.createElement("div")));
  }

  /** @returns whether there is nothing left to do for now */
  paint(now, elapsed) {
    const behind = this.text.length - this.#shown;
    if (behind) {
      const step = calm.matches ? behind : Math.ceil(behind * (1 - Math.exp(-elapsed / CATCH_UP_MS)));
      let shown = Math.min(this.#shown + Math.max(step, 1), this.text.length);
      if (isHalf(this.text, shown)) shown++;
      this.#shown = shown;
    }
    const complete = this.#shown === this.text.length;
    const final = complete && this.#finished;
    if (!final && now < this.#nextAt) return false;
    const began = performance.now();
    this.#render(final);
    if (final) this.element.dataset.typed = "whole";
    this.#nextAt = began + (performance.now() - began) * SHARE;
    return complete;
  }

  #render(final) {
    const visible = this.text.slice(0, this.#shown);
    const lineEnd = visible.lastIndexOf("\n") + 1;
    if (lineEnd > this.#checked) {
      this.#checked = lineEnd;
      const length = closedLength(visible.slice(this.#closed, lineEnd));
      if (length) this.#close(visible.slice(this.#closed, this.#closed + length));
    }
    if (final && definesReferences(this.text)) return this.#renderWhole();
    const rest = visible.slice(this.#closed);
    if (final) {
      if (rest) this.#close(rest);
      this.#open.replaceChildren();
    } else {
      // A definition cut off in mid-address must not be remembered: an env of its own for each look at the open block.
      render(this.#open, withTableBegun(rest), { references: { ...this.#env.references } }, false);
    }
  }

  #close(source) {
    const block = document.createElement("div");
    render(block, source, this.#env, true);
    this.#open.before(...block.childNodes);
    this.#closed += source.length;
  }

  /** A link may name a definition that comes after it: such a text is rendered once more when it is whole. */
  #renderWhole() {
    this.#restart();
    this.#shown = this.#checked = this.text.length;
    this.#close(this.text);
  }
}

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

const definesReferences = (text) => /^ {0,3}\[[^\]]+\]:/m.test(text);

/** Whether cutting `text` at `index` would halve a character outside the basic plane. */
function isHalf(text, index) {
  const code = text.charCodeAt(index);
  return index < text.length && code >= 0xdc00 && code <= 0xdfff;
}
