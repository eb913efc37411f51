/** What is known of a line: whose events it brings, how far it has come, and what its caller was told. */
import { isLast, isPosition } from "./events.js";

const SEEN = 20_000; // ids that are remembered: a server that begins anew repeats a long answer's events

export class State {
  name = "connecting";
  scope; // `turns/ID`, `conversations/ID` or `shops/ID`; a question has none before it is taken
  turnId;
  conversationId;
  question; // until the gateway has taken it
  position;
  transport;
  last = null; // the last event, once it is given
  #seen = new Set();
  #life = new AbortController();
  #options;
  #onTaken;
  #onEnd;

  /**
   * @param {object} options the caller's, with `onEvent` and `onState`
   * @param {{scope?: string, question?: import("./question.js").Question, position?: string}} start
   * @param {{onTaken: () => void, onEnd?: (last: object|null, error: Error|undefined) => void}} handlers
   *   `onTaken`: the question has become a turn. `onEnd`: the line is over, the last word about it
   */
  constructor(options, { scope, question, position }, { onTaken, onEnd }) {
    this.#options = options;
    this.#onTaken = onTaken;
    this.#onEnd = onEnd;
    this.scope = scope;
    this.question = question;
    this.position = position;
    this.conversationId = question?.body.conversationId;
    if (scope?.startsWith("turns/")) this.turnId = scope.slice(6);
  }

  /** Aborts when the line is over, and with it all that runs for it. */
  get signal() { return this.#life.signal; }

  get closed() { return this.signal.aborted; }

  /** Where the scope's routes are. An id may hold whatever an address may not. */
  get path() {
    const [kind] = this.scope.split("/", 1);
    return `/api/coze/${kind}/${encodeURIComponent(this.scope.slice(kind.length + 1))}`;
  }

  /** Whether more events are sure to come: a turn that has begun, and is not over. */
  get isRunning() { return this.turnId !== undefined && this.scope === `turns/${this.turnId}`; }

  /** Whether it listens from now on, and does not know yet where now is. */
  get isNowhere() { return !this.question && !this.scope.startsWith("turns/") && this.position === undefined; }

  /** Whether the turn's last event was given. A question that was taken back ended without its turn. */
  get isOver() { return this.last?.turnId !== undefined; }

  report(name, detail) {
    if (this.closed && name !== "closed") return;
    this.name = name;
    call(this.#options.onState, name, { position: this.position, ...detail });
  }

  give(event) { if (!this.closed) call(this.#options.onEvent, event); }

  /** @returns whether the event is given: not when it was given before */
  deliver(event, id = event.id) {
    if (event.event === "reset") this.#seen.clear();
    else if (id !== undefined && this.#seen.has(id)) return false;
    if (id !== undefined) {
      this.#seen.add(id);
      if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.values().next().value);
      this.position = id;
    }
    if (this.question && event.turnId && event.event !== "notice") this.accept(event.turnId, event.conversationId);
    if (!this.conversationId && typeof event.conversationId === "string") this.conversationId = event.conversationId;
    const ours = this.question || (this.turnId && (event.turnId ?? this.turnId) === this.turnId);
    if (ours && isLast(event)) this.last = event;
    this.give(event);
    return true;
  }

  /** Goes on after `position`, where that is one. */
  moveTo(position) { if (isPosition(position)) this.position = position; }

  /** The gateway has taken the question: from here on it is one turn to listen to. */
  accept(turnId, conversationId) {
    if (typeof conversationId === "string" && conversationId) this.conversationId = conversationId;
    if (typeof turnId !== "string" || !turnId || this.turnId) return;
    this.turnId = turnId;
    this.scope = `turns/${turnId}`;
    this.question = undefined;
    this.#onTaken();
  }

  /** Gives a last event that no connection brought. */
  end(last) {
    if (this.closed) return;
    this.last = last;
    this.give(last);
    this.finish();
  }

  finish(error) {
    if (this.closed) return;
    this.#life.abort();
    this.report("closed", error && error.name !== "AbortError" ? { error } : {});
    this.#onEnd?.(this.last, this.last ? undefined : error);
  }
}

/** A mistake in the caller's handler is the caller's: it is reported, and the line goes on. */
function call(handler, ...values) {
  try {
    handler?.(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}
