/** Stopping a turn, or a question that may have become one. */
import { GatewayError, verdict } from "./errors.js";
import { ask } from "./question.js";
import { watchSignal } from "./signals.js";

const TRIES = 5; // how often a stop is sent if the gateway does not accept it

export class Stop {
  #looking; // a promise while the question's turn is being looked for; nothing else is sent meanwhile
  #gateway;
  #state;
  #pauses;
  #random;

  constructor({ gateway, state, pauses, random }) {
    this.#gateway = gateway;
    this.#state = state;
    this.#pauses = pauses;
    this.#random = random;
  }

  /** Resolves once it is known whether the stopped question has a turn. */
  async looked() { await this.#looking; }

  /** Stops the turn, or takes the question back. Resolves when the gateway knows, or does not need to. */
  async cancel() {
    const state = this.#state;
    if (state.question) await this.#takeBack(); // also after close(), because the question may be on its way
    for (let attempt = 0; state.turnId && !state.isOver; attempt++) { // without a turn, the gateway never took the question
      try {
        return await this.#gateway.cancel(state.turnId);
      } catch (why) {
        const final = why instanceof GatewayError && verdict(why).end === "fatal";
        if (final || attempt + 1 >= TRIES) throw why;
        await this.#unlessOver(Math.max(Math.min(why.retryAfterMs ?? 0, 300_000), this.#random() * 1_000 * 2 ** attempt));
      }
    }
    return undefined;
  }

  /**
   * Ends a question that the gateway is not known to have. It may still arrive, so it is sent once more under its key, to
   * learn its turn, which can then be cancelled. If the gateway answers soon, that happens before the caller is told of
   * the end; if not, it happens in the background.
   */
  async #takeBack() {
    const state = this.#state;
    const found = state.question.underway ? ask({ gateway: this.#gateway, state }, null).catch(() => {}) : undefined;
    let timer;
    const soon = new Promise((resolve) => { timer = setTimeout(resolve, this.#gateway.timing.stopMs); });
    if (found) await (this.#looking = Promise.race([found, soon]));
    clearTimeout(timer);
    if (state.turnId) this.#pauses.wake(true);
    else state.end({ event: "cancelled", conversationId: state.conversationId, turnId: undefined, content: "" });
    await found;
  }

  #unlessOver(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      watchSignal(this.#state.signal, () => {
        if (!this.#state.isOver) return;
        clearTimeout(timer);
        resolve();
      });
    });
  }
}
