/** The stop of a turn, or of a question that may have become one. */
import { GatewayError, verdict } from "./errors.js";
import { ask } from "./question.js";
import { watchSignal } from "./signals.js";

const TRIES = 5; // of a stop that the gateway does not take

export class Stop {
  #looking; // a promise, while it looks for its turn: nothing is asked meanwhile
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

  /** Resolves once it is known whether the question that is stopped has a turn. */
  async looked() { await this.#looking; }

  /** Stops the turn itself, or takes the question back. Resolves when the gateway has heard it, or needs not. */
  async cancel() {
    const state = this.#state;
    if (state.question) await this.#takeBack(); // behind close(), too: it may be on its way
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
   * Ends a question that is not known to be taken. One on its way may get there yet: asked once more, under its key,
   * for its turn alone, it is found and can be cancelled, by a gateway that answers soon before the user hears of the
   * end, by any other behind the user's back.
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
