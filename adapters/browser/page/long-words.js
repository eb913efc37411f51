/**
 * Texts that a browser would take too long to lay out. Its time for the lines of one endless word, and for those of a very
 * long paragraph in the direction of its own words, grows by the square of their length.
 */

/** A word of more code units is broken anywhere, into parts of at most so many. */
const UNBROKEN = 2_000;
const LONG = 10_000; // characters of a paragraph whose direction is looked for once, not for each of its lines

const BLOCK = "p, li > div";
const WORDS = new RegExp(`[^\\s\\p{Ideographic}]{${UNBROKEN / 2},}`, "gu"); // counts characters of two code units as one
const LETTER = /\p{L}/u;
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

const characters = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Makes what is in `part` quick to lay out. Its text stays the same, and the same text is always treated alike. */
export function boundWords(part) {
  for (const text of textsOf(part)) breakWords(text);
  for (const block of part.querySelectorAll(BLOCK)) direct(block);
}

/** The same where a text has grown at its end. @returns the text node that it ends in now */
export function boundGrown(text) {
  const last = breakWords(text);
  const block = last.parentNode.closest(BLOCK);
  if (block && !block.matches(".ltr, .rtl")) direct(block);
  return last;
}

function textsOf(part) {
  const walker = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  return texts;
}

/** Puts a place to break, which nobody sees or copies, between the parts of long words: each is laid out by itself. */
function breakWords(text) {
  if (text.length < UNBROKEN || text.parentNode.closest("pre")) return text; // code's lines are not broken
  const { data } = text;
  let last = text;
  let from = 0;
  for (const { 0: { length }, index } of data.matchAll(WORDS)) {
    for (let begin = index; index + length - begin > UNBROKEN;) {
      begin = nextPlace(data, begin);
      last.parentNode.classList.add("unbroken");
      last = last.splitText(begin - from); // a selection in it stays
      last.before(document.createElement("wbr"));
      from = begin;
    }
  }
  return last;
}

/** Where a part that begins `from` there ends: never in the middle of a character, unless that is endless itself. */
function nextPlace(text, from) {
  const { index } = characters.segment(text.slice(from, from + 2 * UNBROKEN)).containing(UNBROKEN);
  return from + (index || UNBROKEN);
}

/** Gives a long paragraph the direction of its first letter, if all its lines have the same. */
function direct(block) {
  const texts = textsOf(block);
  if (texts.reduce((length, text) => length + text.length, 0) < LONG) return;
  if (block.querySelector("br") || block.matches(".plain, .maths")) return;
  block.classList.add("long");
  const begun = texts.find((text) => LETTER.test(text.data));
  if (begun) block.classList.add(RIGHT_TO_LEFT.test(LETTER.exec(begun.data)[0]) ? "rtl" : "ltr");
}
