/** The turns that the page shows, by id and in their order: those that the gateway has taken stand above the others. */
import { make } from "./dom.js";
import { TurnView } from "./turn-view.js";

export class TurnList {
  #log;
  #buttons;
  #byId = new Map();

  /** @param {HTMLElement} log where turns go @param {object} buttons what a turn's buttons do, as `TurnView` wants it */
  constructor(log, buttons) {
    this.#log = log;
    this.#buttons = buttons;
  }

  has(turnId) { return this.#byId.has(turnId); }

  get(turnId) { return this.#byId.get(turnId); }

  /** The gateway has given the turn its id. */
  set(turnId, view) { this.#byId.set(turnId, view); }

  /** A question that is asked on this page, perhaps with files, goes to the end. @param {string[]} files their names @returns {TurnView} */
  ask(question, files = []) {
    const view = new TurnView(question, this.#buttons);
    view.asked.append(...files.map((name) => make("small", { class: "went-along", dir: "auto" }, name)));
    this.#log.append(view.element);
    return view;
  }

  /** A turn that was started elsewhere goes below all turns that the gateway has taken. @returns {TurnView} */
  insert(question) {
    const view = new TurnView(question, this.#buttons);
    let place = null;
    for (let last = this.#log.lastElementChild; last && !last.dataset.turn; last = last.previousElementSibling) place = last;
    this.#log.insertBefore(view.element, place);
    return view;
  }

  /** Makes turns of those in a page of the record that are not known yet; `place` shows them. @returns {TurnView[]} */
  recall(turns) {
    return turns.filter(({ turnId }) => !this.#byId.has(turnId)).map(({ turnId, question, answer, status, opinion }) => {
      const view = new TurnView(question, this.#buttons);
      Object.assign(view, { turnId, opinion });
      if (answer !== undefined) view.recall(answer, status);
      this.#byId.set(turnId, view);
      return view;
    });
  }

  /** Shows the turns of a page of the record above all others. Some may be shown already, such as a running one. */
  place(turns) {
    let last;
    for (const { turnId } of turns) {
      const { element } = this.#byId.get(turnId);
      if (!element.isConnected && last) last.after(element);
      else if (!element.isConnected) this.#log.prepend(element);
      last = element;
    }
  }

  clear() {
    this.#byId.clear();
    this.#log.replaceChildren();
  }
}
