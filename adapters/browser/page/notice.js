/** The line in which a turn says what it waits for, sometimes with a button that may help. */
import { make, say, sayAnew } from "./dom.js";

export class Notice {
  #words = make("span", { role: "status" });
  #countdown;

  constructor() {
    this.element = make("div", { class: "notice", hidden: true }, this.#words);
  }

  get isShown() { return !this.element.hidden; }

  /** The key of the words that are shown; "" when there are none. */
  get says() { return this.element.dataset.says ?? ""; }

  /** Shows the words of `key`, and with `delayMs` after them how long it takes until the next attempt. */
  tell(key, { values = {}, button, delayMs } = {}) {
    clearInterval(this.#countdown);
    this.element.hidden = false;
    this.element.dataset.says = key;
    this.#words.replaceChildren(say("span", key, values));
    this.element.replaceChildren(this.#words, ...(button ? [button] : []));
    if (delayMs !== undefined) this.#countDown(performance.now() + delayMs);
  }

  clear() {
    clearInterval(this.#countdown);
    if (!this.isShown) return;
    this.element.hidden = true;
    this.element.dataset.says = "";
    this.#words.replaceChildren();
    this.element.replaceChildren(this.#words);
  }

  #countDown(until) {
    const left = () => Math.max(Math.ceil((until - performance.now()) / 1_000), 1);
    const words = say("span", "again_in", { "data-n": left(), "aria-hidden": "true" }); // read out every second it would be noise
    this.#words.append(" ", words);
    this.#countdown = setInterval(() => {
      words.dataset.n = left();
      sayAnew(words, "again_in");
    }, 1_000);
  }
}
