/** How long an answer is for its reader: in code points, as the gateway counts, without the data of its pictures. */

const DATA = "](data:"; // in Markdown a picture's own data follows this; usually all of it is in one address
const END = /[)\s]/;

/** Counts a text that arrives in pieces, which may be cut anywhere. */
export class ShownLength {
  length = 0;
  #inside = false; // whether the end of the text is inside an address that is data
  #tail = ""; // the last characters, with which such an address may begin

  /** @returns how many characters of this piece are shown */
  add(piece) {
    const before = this.length;
    let rest = piece;
    while (rest) rest = this.#inside ? this.#skip(rest) : this.#count(rest);
    return this.length - before;
  }

  #skip(text) {
    const end = text.search(END);
    if (end < 0) return "";
    this.#inside = false;
    this.#tail = "";
    return text.slice(end);
  }

  #count(text) {
    const known = this.#tail + text;
    const start = known.indexOf(DATA);
    const shown = start < 0 ? text : known.slice(this.#tail.length, start + DATA.length);
    this.length += codePoints(shown);
    this.#tail = known.slice(1 - DATA.length);
    this.#inside = start >= 0;
    return text.slice(shown.length);
  }
}

/** @returns the same for a whole text */
export function shownLength(text) {
  const counted = new ShownLength();
  counted.add(text);
  return counted.length;
}

const codePoints = (text) => [...text].length;
