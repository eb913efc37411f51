/** The pauses of a line between two tries. */
import { since } from "./values.js";

export class Pauses {
  #attempt = 0;
  #wake = null; // ends a pause early; with `byForce` also one that the gateway asked for
  #held; // the pause that the gateway asked for: its start, its length, and the reason
  #gateway;
  #state;
  #random;

  constructor({ gateway, state, random }) {
    this.#gateway = gateway;
    this.#state = state;
    this.#random = random;
  }

  /** Full jitter: anything from 0 to the doubled delay, so that a crowd cut at once comes back spread. */
  jitter() {
    const ceiling = Math.min(this.#gateway.advisedMs * 2 ** this.#attempt++, this.#gateway.timing.backoffMaxMs);
    return this.#random() * ceiling;
  }

  /** The next ones are short again. */
  shorten() { this.#attempt = 0; }

  /**
   * @param {{why?: string, error?: Error, end?: string}} outcome what it is for
   * @param {{spread?: number, firm?: boolean}} how `spread` adds up to that part of it; `firm`: the gateway asked for it
   */
  async take(ms, { why, error, end }, { spread = 0, firm = false } = {}) {
    const delayMs = Math.round(ms * (1 + spread * this.#random()));
    const reason = why ?? error?.code ?? end;
    if (firm) this.#held = { at: Date.now(), delayMs, reason };
    this.#report(delayMs, reason, firm);
    if (!(await this.sleep(delayMs, firm))) this.#held = undefined;
  }

  /** Whether the gateway asked for a pause that is not over, whatever woke the line meanwhile. */
  get isHeld() { return this.#held !== undefined; }

  /** What the gateway asked for counts on: through a tab that was hidden, through another wish. */
  async goOn() {
    const { at, delayMs, reason } = this.#held;
    const left = delayMs - since(at);
    if (left > 0) this.#report(left, reason, true);
    if (!(await this.sleep(left, true))) this.#held = undefined;
  }

  /** What the gateway asked for does not count any more. */
  release() { this.#held = undefined; }

  /** @returns whether it ended early */
  sleep(ms, firm = false) {
    if (this.#state.closed) return Promise.resolve(true); // the handler that was told of the pause closed the line
    return new Promise((resolve) => {
      const timer = ms === Infinity ? undefined : setTimeout(resolve, ms, false);
      this.#wake = (byForce = false) => {
        if (firm && !byForce) return;
        clearTimeout(timer);
        resolve(true);
      };
    }).finally(() => { this.#wake = null; });
  }

  wake(byForce = false) { this.#wake?.(byForce); }

  #report(delayMs, reason, firm) {
    this.#state.report("waiting", { transport: this.#state.transport, delayMs, reason, ...(firm && { asked: true }) });
  }
}
