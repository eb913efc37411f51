/** The page's one connection to the gateway: over it the page asks a question, or listens to the conversation. */
import { chat, connect } from "../client/coze-gateway.js";
import { language } from "./language.js";
import { reasonKey } from "./reasons.js";

export class Connection {
  isOpen = false;
  #line;

  /** @param {(state: string, detail: object) => void} onState what the open line does; `detail.reason` is a key of words */
  constructor(onState) {
    this.onState = onState;
  }

  get position() { return this.#line?.position; }

  /** Asks by `chat()`, in place of what the connection did before. @returns what `chat()` returns */
  ask(options) { return this.#open(chat, options); }

  /** Listens by `connect()`, in place of what the connection did before. */
  listen(options) { this.#open(connect, options); }

  #open(how, options) {
    this.close();
    const line = how({ ...options, language: language(), onState: (state, detail) => this.#tell(line, state, detail) });
    this.#line = line;
    return line;
  }

  /** Closes the line. Whatever state it still reports is ignored, because it is no longer the page's line. */
  close() {
    const line = this.#line;
    this.#line = undefined;
    this.isOpen = false;
    line?.close();
  }

  /** Whether `line`, which `ask` gave, is still the page's. */
  has(line) { return this.#line === line; }

  /** Stops the question that is being asked. @returns a promise, or undefined when the page only listens */
  cancel() { return this.#line?.cancel?.(); }

  /** Makes the next attempt now, instead of after the pause. */
  tryNow() { this.#line?.retryNow(); }

  prefer(transports) { this.#line?.prefer(transports); }

  /** Leaves the present transport for the next one, in the middle of an answer. @returns which one */
  goOnElsewhere(liking) {
    const now = this.#line?.transport;
    const next = liking[(liking.indexOf(now) + 1) % liking.length];
    this.prefer([next, ...liking.filter((name) => name !== next)]);
    return next;
  }

  #tell(line, state, detail) {
    if (this.#line !== line) return;
    const { reason: why } = detail;
    const reason = state === "waiting" && why !== "hidden" ? reasonKey(why, this.isOpen) : why;
    if (state === "open" || state === "waiting" || state === "offline") this.isOpen = state === "open";
    this.onState(state, { ...detail, reason });
  }
}
