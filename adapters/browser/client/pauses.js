/** The pauses of a line between two attempts. */
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

  /** Full jitter: anything from 0 to the doubled delay, so that clients that were cut off together don't come back together. */
  jitter() {
    const ceiling = Math.min(this.#gateway.advisedMs * 2 ** this.#attempt++, this.#gateway.timing.backoffMaxMs);
    return this.#random() * ceiling;
  }

  /** Makes the next pauses short again. */
  shorten() { this.#attempt = 0; }

  /**
   * @param {{why?: string, error?: Error, end?: string}} outcome the reason for the pause
   * @param {{spread?: number, firm?: boolean}} how `spread` adds up to that part of it; `firm`: the gateway asked for it
   */
  async take(ms, { why, error, end }, { spread = 0, firm = false } = {}) {
    const delayMs = Math.round(ms * (1 + spread * this.#random()));
    const reason = why ?? error?.code ?? end;
    if (firm) this.#held = { at: Date.now(), delayMs, reason };
    this.#report(delayMs, reason, firm);
    if (!(await this.sleep(delayMs, firm))) this.#held = undefined;
  }

  /** Whether the gateway asked for a pause that is not over yet, even if something has woken the line. */
  get isHeld() { return this.#held !== undefined; }

  /** Waits for the rest of the pause that the gateway asked for: a hidden tab or a changed preference does not shorten it. */
  async goOn() {
    const { at, delayMs, reason } = this.#held;
    const left = delayMs - since(at);
    if (left > 0) this.#report(left, reason, true);
    if (!(await this.sleep(left, true))) this.#held = undefined;
  }

  /** Forgets the pause that the gateway asked for. */
  release() { this.#held = undefined; }

  /** @returns whether the pause ended early */
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
