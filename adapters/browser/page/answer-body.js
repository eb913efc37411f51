/** What an answer shows: its texts and its cards, in the order they came. */
import { AnswerText } from "./answer-text.js";
import { make } from "./dom.js";

export class AnswerBody {
  #text = make("div", { class: "content" });
  #typed = new AnswerText(this.#text);
  #cards = make("div", { class: "extras" });
  #above = ""; // the text that stands above a card

  /** The elements to begin with. Others are put after them in the same parent. */
  get elements() { return [this.#text, this.#cards]; }

  get #parent() { return this.#text.parentElement; }

  get hasCards() { return this.#parent.querySelector(".extras > *") !== null; }

  addCard(element) { this.#cards.append(element); }

  removeCards() {
    for (const cards of this.#parent.querySelectorAll(".extras")) cards.replaceChildren();
  }

  /** Shows the whole text. When it no longer begins as the parts above the cards do, it becomes one part, below all cards. */
  show(text) {
    if (this.#above && !text.startsWith(this.#above)) {
      this.#above = "";
      for (const part of this.#parent.querySelectorAll(".content")) if (part !== this.#text) part.remove();
    }
    this.#typed.set(text.slice(this.#above.length));
  }

  /** No more text comes. `atOnce`: without typing what is still to be shown. */
  finish(atOnce) { this.#typed.finish(atOnce); }

  /**
   * Makes room below the cards so far for the text from `start` on, if a new answer begins there: at a blank line, or at
   * the very beginning. In the middle of an answer the card only arrived earlier. @returns whether it made room
   */
  makeRoom(text, start, content, atOnce) {
    if (!this.#cards.hasChildNodes() || (start && !content.startsWith("\n\n"))) return false;
    const above = this.#cards;
    this.#cards = make("div", { class: "extras" });
    if (start) {
      this.#typed.set(text.slice(this.#above.length, start));
      this.#typed.finish(atOnce);
      this.#above = text.slice(0, start);
      this.#text = make("div", { class: "content" });
      this.#typed = new AnswerText(this.#text);
    }
    above.after(this.#text, this.#cards);
    return true;
  }

  /** Calls `then` once, when the first thing of the text can be seen: the first piece may be a space, or be held back. */
  onFirstSight(then) {
    const parent = this.#parent;
    const sight = new MutationObserver(() => {
      const seen = [...parent.querySelectorAll(".content")].some((part) => part.textContent.trim() || part.querySelector("img, hr"));
      if (!seen) return;
      sight.disconnect();
      then();
    });
    sight.observe(parent, { subtree: true, childList: true, characterData: true });
  }
}
