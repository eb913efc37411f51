/** The gateway's record of a conversation: pages of messages, and the details of single turns. */
import { request } from "./api.js";

const PAGE = 100; // messages
const EVENT_PAGES = 20; // how many long-polls fetch a turn's events; the events after that are not shown
const ENDED = new Set(["completed", "failed", "cancelled"]);

export class History {
  hasMore = false;
  #oldest; // the id of the oldest message that was fetched
  #cut; // an answer whose question is on the next page
  #settings;

  /** @param {string} id the conversation's @param {() => object} settings `baseUrl`, `token` and `network` */
  constructor(id, settings) {
    this.id = id;
    this.#settings = settings;
  }

  /** The next older page of turns, oldest first: `[{turnId, question, answer?, status?, opinion?}]`. */
  async earlier() {
    const before = this.#oldest === undefined ? "" : `&before=${encodeURIComponent(this.#oldest)}`;
    const page = await request(this.#settings(), `conversations/${this.id}/messages?limit=${PAGE}${before}`);
    const turns = new Map();
    for (const message of [...page.messages, ...(this.#cut ? [this.#cut] : [])]) {
      const turn = turns.get(message.turnId);
      if (message.role === "user") turns.set(message.turnId, { turnId: message.turnId, question: message.content });
      else if (turn && ENDED.has(message.status)) {
        Object.assign(turn, { answer: message.content, status: message.status, opinion: message.feedback });
      }
    }
    const [first] = page.messages;
    this.#oldest = first?.id ?? this.#oldest;
    this.#cut = first?.role === "assistant" ? first : undefined;
    this.hasMore = page.hasMore === true && first !== undefined;
    return [...turns.values()];
  }

  /** Adds the details in the turn's own record: how it ended, why it failed, reasoning, suggestions. @returns its status */
  async recallMore(view) {
    const turn = await request(this.#settings(), `turns/${view.turnId}`);
    if (!ENDED.has(turn.status)) return turn.status;
    if (!view.over) view.recall(turn.content, turn.status);
    view.recallMore(turn);
    return turn.status;
  }

  /** Adds what is only in events, as long as they are kept: cards, the use of tools, spoken audio. */
  async recallEvents(view) {
    let after = "";
    for (let page = 0; page < EVENT_PAGES; page++) {
      const { events, next, ended } = await request(this.#settings(), `turns/${view.turnId}/poll?wait=0${after}`);
      if (events.some(({ event }) => event === "reset")) break;
      for (const event of events) view.recallEvent(event);
      if (ended || !events.length) break;
      after = `&after=${encodeURIComponent(next)}`;
    }
    view.recalled();
  }
}
