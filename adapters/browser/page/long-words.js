/**
 * Long words and paragraphs, made quick to lay out. A browser's time for the lines of one endless word, or of a very long
 * paragraph whose direction depends on its words, grows with the square of the length.
 */

/** A word of more code units is broken into parts of at most so many. */
const UNBROKEN = 2_000;
const LONG = 10_000; // in longer paragraphs the direction is determined once, not for each line

const BLOCK = "p, li > div";
const WORDS = new RegExp(`[^\\s\\p{Ideographic}]{${UNBROKEN / 2},}`, "gu"); // counts characters of two code units as one
const LETTER = /\p{L}/u;
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

const characters = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Makes the content of `part` quick to lay out. The text stays the same, and the same text is always treated alike. */
export function boundWords(part) {
  for (const text of textsOf(part)) breakWords(text);
  for (const block of part.querySelectorAll(BLOCK)) direct(block);
}

/** The same for a text that has grown at its end. @returns the text node in which it ends now */
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

/** Puts an invisible break opportunity, which is not copied, between the parts of long words, so that each is laid out alone. */
function breakWords(text) {
  if (text.length < UNBROKEN || text.parentNode.closest("pre")) return text; // code's lines are not broken
  const { data } = text;
  let last = text;
  let from = 0;
  for (const { 0: { length }, index } of data.matchAll(WORDS)) {
    for (let begin = index; index + length - begin > UNBROKEN;) {
      begin = nextPlace(data, begin);
      last.parentNode.classList.add("unbroken");
      last = last.splitText(begin - from); // keeps a selection in it
      last.before(document.createElement("wbr"));
      from = begin;
    }
  }
  return last;
}

/** The end of the part that begins at `from`: never in the middle of a character, unless the character is endless itself. */
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
