/**
 * Words whose Markdown is still being written, completed to look as they will: open emphasis and code are closed, a link
 * shows its text already, and anything that is still ambiguous, such as half of an image, is held back.
 */
import { closedMaths, mathsEnd } from "./maths.js";

const LETTER = /[A-Za-z0-9]/;
const LABEL = 80; // longer text in brackets is shown before it is known to be a link
const ENTITY = /&(?:#[0-9xa-fA-F]{0,7}|[a-z]{0,6})$/;
const ENTITIES = ["amp", "apos", "copy", "deg", "gt", "hellip", "laquo", "ldquo", "lt", "mdash", "nbsp", "ndash", "quot", "raquo", "rdquo", "times"];
const ADDRESS = /<(?:(https?|mailto):[^\s<>]*|([a-z]{0,6}))$/;
const SCHEMES = ["http", "https", "mailto"];

/** @returns {string} complete Markdown; `unmatched(text)` returns the characters that close the emphasis that `text` leaves open */
export function finished(text, unmatched) {
  const { code, maths, link, cut, settled } = look(text);
  if (cut !== undefined) text = withoutEnd(text.slice(0, cut), settled);
  else if (link !== undefined) text = text.slice(0, link.start) + text.slice(link.start + 1, link.end);
  else if (code) text = closedCode(text, code);
  else if (maths !== undefined) text = closedMaths(text, maths);
  else text = withoutEnd(text, settled);
  text = text.trimEnd();
  return text + unmatched(text);
}

/**
 * Finds, in one pass, what is open at the end of the text: code, maths, or a link whose address has begun (`start` and
 * `end` are the brackets of its words). From `cut` on, nobody can tell yet what the text is; up to `settled` that is
 * certain.
 */
function look(text) {
  const brackets = [];
  const notClosed = {};
  const runs = backticks(text);
  let settled = 0;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case "$": case "\\": {
        const end = mathsEnd(text, at, notClosed);
        if (end === Infinity) return waiting(text, brackets, { maths: at });
        if (!end && text[at] === "$") break;
        settled = Math.min(end || at + 2, text.length + 1);
        at = settled - 1;
        break;
      }
      case "`": {
        const run = runs.get(at);
        if (!run) break; // the rest of an escaped run
        const opens = !LETTER.test(text[at - 1] ?? "") && at + run.length < text.length;
        if (!run.end && opens) return waiting(text, brackets, { code: run });
        at += run.length - 1;
        if (run.end) at = (settled = run.end) - 1;
        break;
      }
      case "[":
        brackets.push(at);
        break;
      case "]": {
        const start = brackets.pop();
        if (start === undefined) break;
        const end = afterLabel(text, at + 1);
        if (end !== Infinity) at = end - 1;
        else if (text[start - 1] === "!") return waiting(text, brackets, { cut: start - 1, settled });
        else if (text[at + 1] === "(" && !text.startsWith("![", start + 1)) return waiting(text, brackets, { link: { start, end: at } });
        else return waiting(text, brackets, { cut: start, settled });
        break;
      }
      default:
    }
  }
  return waiting(text, brackets, { settled });
}

/** `found`, or earlier brackets that may still become a link or an image. */
function waiting(text, brackets, found) {
  const first = brackets.find((at) => text.length - at <= LABEL && !/[A-Za-z0-9)\]]/.test(text[at - 1] ?? ""));
  if (first === undefined) return found;
  return { cut: text[first - 1] === "!" ? first - 1 : first, settled: 0 };
}

/** The runs of backticks, by their start; for each the end of the code that it opens, if there is one. */
function backticks(text) {
  const runs = [...text.matchAll(/`+/g)].map(({ index, 0: { length } }) => ({ at: index, length }));
  const next = new Map(); // by length, the nearest one behind
  for (const run of runs.reverse()) {
    run.end = next.get(run.length);
    next.set(run.length, run.at + run.length);
  }
  return new Map(runs.map((run) => [run.at, run]));
}

/** Where the address or the name behind a label ends: at once if there is none, `Infinity` if the end is still to come. */
function afterLabel(text, at) {
  if (at === text.length) return Infinity;
  if (text[at] === "[") return text.indexOf("]", at) + 1 || (text.length - at > LABEL ? at : Infinity);
  if (text[at] !== "(") return at;
  const title = lengthOf(/\([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*/y, text, at) + at;
  if (title === text.length) return Infinity;
  if (text[title] === ")") return title + 1;
  const rest = lengthOf(/\s+(?:["'(][^"')]{0,300}["')]?\s*)?/y, text, title);
  if (rest && title + rest === text.length) return Infinity;
  return rest && text[title + rest] === ")" ? title + rest + 1 : at;
}

function lengthOf(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0].length ?? 0;
}

/** Another backtick may still follow the last one, and then close the code. */
function closedCode(text, { length }) {
  const run = "`".repeat(length);
  return `${text.slice(0, lengthWithout(text, "`")).trimEnd()}${run}`;
}

/** Removes emphasis characters at the very end of a text, which may still close, open, or stand for themselves. */
function withoutEnd(text, settled) {
  if (settled > text.length) return text.slice(0, -1); // a backslash: the character after it is still to come
  const address = ADDRESS.exec(text);
  if (address?.[1]) return text.slice(0, address.index) + text.slice(address.index + 1);
  if (address && SCHEMES.some((scheme) => scheme.startsWith(address[2]))) return text.slice(0, address.index);
  const entity = ENTITY.exec(text)?.[0];
  if (entity && (entity[1] === "#" || ENTITIES.some((name) => name.startsWith(entity.slice(1))))) return text.slice(0, -entity.length);
  if (/(?:^|\s)!$/.test(text)) return text.slice(0, -1);
  return text.slice(0, Math.max(lengthWithout(text, "*_~`"), settled));
}

/** The length of a text without the run of these characters at its end. */
function lengthWithout(text, characters) {
  let { length } = text;
  while (length && characters.includes(text[length - 1])) length--;
  return length;
}
