/**
 * The questions that wait at the gateway for the answer before them. They start by themselves after it, even if this page
 * is closed.
 */
import { request, sentence } from "./api.js";
import { make, say } from "./dom.js";

export class Queue {
  #page;
  #turns;
  #views = new Set();

  /** @param {object} page as `Conversation` has it @param {import("./turn-list.js").TurnList} turns */
  constructor(page, turns) {
    this.#page = page;
    this.#turns = turns;
  }

  get size() { return this.#views.size; }

  /** Adds a turn that is known to wait. */
  add(view) {
    this.#views.add(view);
    view.queued();
  }

  /** Removes a turn that has begun, or is no longer wanted. @returns whether it waited */
  remove(view) { return this.#views.delete(view); }

  clear() { this.#views.clear(); }

  /** Hands the gateway a question. @param {(error: Error) => void} onRefused it was not taken */
  async handOver(settings, view, { body, key, onRefused }) {
    this.#views.add(view);
    const here = () => this.#views.has(view); // until the page has moved on to another conversation
    try {
      const { turnId } = await request(settings, "chat", { body, key, prefer: "wait=0" });
      if (!here()) return;
      const begun = this.#turns.get(turnId); // the turn's first event was quicker than this answer
      if (begun) {
        this.#views.delete(view);
        view.element.remove();
      } else {
        this.#turns.set(turnId, view);
        view.turnId = turnId;
        view.queued();
      }
    } catch (error) {
      if (!here()) return;
      this.#views.delete(view);
      onRefused(error);
    }
    this.#page.onChange();
  }

  /** Cancels a question that has not begun, and puts it back into the field. */
  async takeBack(view) {
    try {
      await request(this.#page.settings(), `turns/${view.turnId}/cancel`, { body: {} });
    } catch (error) {
      return this.#page.onTrouble(make("span", {}, say("span", "stop_failed"), " ", sentence(error)));
    }
    if (!this.#views.delete(view)) return undefined; // it had just begun: its last event will say that it was stopped
    view.element.remove();
    this.#page.edit(view.question);
    return this.#page.onChange();
  }
}
