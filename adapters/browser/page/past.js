/** The conversation's past: the gateway's record of it, shown above the turns of now. */
import { sentence } from "./api.js";
import { make, say } from "./dom.js";
import { History } from "./history.js";

const RECALLED = 20; // the newest turns, of which everything is fetched that the gateway keeps

export class Past {
  isOpen = false; // whether the newest page has arrived
  #page;
  #turns;
  #conversation;
  #record;

  /**
   * @param {object} page as `Conversation` has it
   * @param {import("./turn-list.js").TurnList} turns
   * @param {object} conversation
   * @param {(id: string) => boolean} conversation.shows whether it is still the conversation with this id
   * @param {(view: object) => boolean} conversation.isHeard whether the turn's own events tell everything about it
   * @param {(view: object) => void} conversation.queued the turn waits for the one before it
   * @param {() => void} conversation.isGone the gateway does not know the conversation
   */
  constructor(page, turns, conversation) {
    this.#page = page;
    this.#turns = turns;
    this.#conversation = conversation;
  }

  get hasEarlier() { return this.isOpen && this.#record.hasMore; }

  /** Shows the newest page of the record of the conversation `id`. */
  open(id) {
    this.#record = new History(id, this.#page.settings);
    return this.showEarlier();
  }

  close() {
    this.#record = undefined;
    this.isOpen = false;
  }

  /** Shows the page before those that are shown. */
  async showEarlier() {
    const record = this.#record;
    const first = !this.isOpen;
    const here = () => this.#record === record && this.#conversation.shows(record.id);
    try {
      const turns = await record.earlier();
      if (!here()) return;
      this.isOpen = true;
      const views = this.#turns.recall(turns);
      if (first) this.#turns.place(turns);
      else this.#page.keepPlace(() => this.#turns.place(turns));
      if (first) this.#page.onTurn();
      this.#page.onChange();
      await this.#recallMore(record, views, first ? views.slice(-RECALLED) : []);
    } catch (error) {
      if (!here()) return;
      if (error.code === "not_found") return void this.#conversation.isGone();
      this.#page.onTrouble(make("span", {}, say("span", "history_failed"), " ", sentence(error)));
      if (error.code === "unauthorized") this.#page.onTokenWanted();
    }
  }

  /**
   * Adds why turns failed, and to the newest turns everything else that is kept of them. Older ones stay as they are:
   * whatever grew above the reader would push the text that is being read.
   */
  async #recallMore(record, views, newest) {
    for (const view of views.filter((one) => newest.includes(one) || one.state === "error").reverse()) {
      if (this.#record !== record) return;
      if (this.#conversation.isHeard(view)) continue;
      const status = await record.recallMore(view).catch(() => {}); // the page is usable without
      if (status === "queued" && view.state === "waiting" && this.#record === record) this.#conversation.queued(view);
      if (newest.includes(view) && view.over) await record.recallEvents(view).catch(() => {});
    }
    this.#page.onChange();
  }
}
