/** The state of a line: its scope, its position, and what its caller has been told. */
import { isLast, isPosition } from "./events.js";

const SEEN = 20_000; // how many ids are remembered, because a server that starts anew repeats the events of a long answer

export class State {
  name = "connecting";
  scope; // `turns/ID`, `conversations/ID` or `shops/ID`; a question has none before it is taken
  turnId;
  conversationId;
  question; // the question, until the gateway has accepted it
  position;
  transport;
  last = null; // the last event, once the caller has it
  #seen = new Set();
  #life = new AbortController();
  #options;
  #onTaken;
  #onEnd;

  /**
   * @param {object} options the caller's, with `onEvent` and `onState`
   * @param {{scope?: string, question?: import("./question.js").Question, position?: string}} start
   * @param {{onTaken: () => void, onEnd?: (last: object|null, error: Error|undefined) => void}} handlers
   *   `onTaken`: the question has become a turn. `onEnd`: the line is over; no other call follows
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

  /** Aborts when the line is over, and stops everything that runs for it. */
  get signal() { return this.#life.signal; }

  get closed() { return this.signal.aborted; }

  /** The path of the scope's routes. The id is encoded, because it may hold characters that a path may not. */
  get path() {
    const [kind] = this.scope.split("/", 1);
    return `/api/coze/${kind}/${encodeURIComponent(this.scope.slice(kind.length + 1))}`;
  }

  /** Whether more events must follow, because a turn has begun and is not over. */
  get isRunning() { return this.turnId !== undefined && this.scope === `turns/${this.turnId}`; }

  /** Whether it listens from now on, but does not know the present position yet. */
  get isNowhere() { return !this.question && !this.scope.startsWith("turns/") && this.position === undefined; }

  /** Whether the turn's last event was given. A question that was taken back ended without a turn. */
  get isOver() { return this.last?.turnId !== undefined; }

  report(name, detail) {
    if (this.closed && name !== "closed") return;
    this.name = name;
    call(this.#options.onState, name, { position: this.position, ...detail });
  }

  give(event) { if (!this.closed) call(this.#options.onEvent, event); }

  /** Gives an event to the caller, unless it was given before. @returns whether it was given now */
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

  /** Continues after `position`, if that is a position. */
  moveTo(position) { if (isPosition(position)) this.position = position; }

  /** The gateway has accepted the question: from now on the line listens to one turn. */
  accept(turnId, conversationId) {
    if (typeof conversationId === "string" && conversationId) this.conversationId = conversationId;
    if (typeof turnId !== "string" || !turnId || this.turnId) return;
    this.turnId = turnId;
    this.scope = `turns/${turnId}`;
    this.question = undefined;
    this.#onTaken();
  }

  /** Gives the caller a last event that no connection brought. */
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

/** An error in the caller's handler is reported, and the line goes on. */
function call(handler, ...values) {
  try {
    handler?.(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}
