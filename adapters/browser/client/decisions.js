/** Decisions: what a line does when a connection has ended. */
import { GatewayError, isGateways, unreachable, verdict } from "./errors.js";
import { since } from "./values.js";
import { giveWhole, isOver } from "./whole.js";

/** @typedef {import("./errors.js").Outcome} Outcome */

const RENEWALS = 4; // how many tokens in a row the gateway may refuse before the line gives up

export class Decisions {
  #breaks = []; // the times of the last minute at which connections broke
  #refusals = 0; // how many tokens in a row were refused
  #refusedAt = -Infinity; // when a token was last refused
  #disabled = 0; // how often the gateway said that it does not stream
  #gateway;
  #state;
  #health;
  #transports;
  #pauses;
  #presence;
  #random;

  constructor({ gateway, state, health, transports, pauses, presence, random }) {
    this.#gateway = gateway;
    this.#state = state;
    this.#health = health;
    this.#transports = transports;
    this.#pauses = pauses;
    this.#presence = presence;
    this.#random = random;
  }

  /**
   * Ends the line, or returns when the next connection is due.
   * @param {string} name of the transport
   * @param {Outcome} outcome
   */
  async decide(name, outcome) {
    if (this.#state.last || outcome.end === "finished") return this.#conclude();
    switch (outcome.end) {
      case "interrupted":
        return undefined;
      case "fatal":
        return this.#fatal(outcome);
      case "told": { // the gateway has spread this delay already; another tenth separates clients with the same delay
        const advised = outcome.delayMs ?? this.#gateway.advisedMs * (0.5 + this.#random());
        if (outcome.progressed) return this.#pauses.take(advised, outcome, { spread: 0.1, firm: true });
        // The connection ended like this each time without an event: perhaps a proxy cuts it right after the start.
        if (this.#keepsBreaking()) this.#health.blame(name, "own", this.#gateway.timing);
        this.#countTry(outcome);
        return this.#pauses.take(Math.max(advised, this.#pauses.jitter()), outcome, { spread: 0.1, firm: true });
      }
      case "busy": {
        this.#countTry(outcome);
        const ms = Math.max(Math.min(outcome.error.retryAfterMs ?? 0, 300_000), this.#pauses.jitter());
        return this.#pauses.take(ms, outcome, { spread: 0.1, firm: true });
      }
      case "broke":
        if (this.#keepsBreaking()) this.#health.blame(name, "own", this.#gateway.timing);
        return this.#tryAgain(outcome);
      default: { // refused, buffered
        // Another transport can only work better if the gateway answers at all.
        if (!outcome.answered && !isGateways(outcome.error) && (await this.#foundNobody(outcome))) return undefined;
        this.#health.blame(name, outcome.fault ?? "own", this.#gateway.timing);
        const usable = this.#transports.usable();
        if (usable.some((other) => this.#health.trusted(other))) return undefined;
        this.#health.forgive(usable);
        if (outcome.end === "buffered") this.#gateway.bePatient();
        return this.#tryAgain(outcome);
      }
    }
  }

  /** Like `decide`, for a request that no other transport can replace: it is repeated unless the outcome is final. @param {Outcome} outcome */
  async alone(outcome) {
    if (outcome.end !== "refused") return this.decide("longpoll", outcome);
    const { error } = outcome;
    if ((!error || (error.status >= 500 && !isGateways(error))) && (await this.#foundNobody(outcome))) return undefined;
    return this.#tryAgain(outcome);
  }

  /** The present token was accepted for a while. */
  tokenWorked() { this.#refusals = 0; }

  #fatal(outcome) {
    const { config, timing, renewsToken } = this.#gateway;
    if (outcome.error.code === "unauthorized" && renewsToken && this.#refusals < RENEWALS) {
      // A fresh token is requested at once. If the token source's clock is slow, it returns the old one for a while.
      const again = since(this.#refusedAt) < 5_000;
      this.#refusedAt = Date.now();
      if (!this.#refusals++ && !again) return undefined;
      const ms = Math.min(1_000 * 2 ** Math.max(this.#refusals - 2, 0), timing.backoffMaxMs);
      return this.#pauses.take(ms, outcome, { spread: 0.1 });
    }
    if (outcome.error.code === "streaming_disabled" && config.streaming !== false) {
      this.#gateway.believe({ ...config, streaming: false });
      return this.#disabled++ ? this.#pauses.take(this.#pauses.jitter(), outcome) : undefined; // and otherwise in between
    }
    return this.#state.finish(outcome.error);
  }

  /** The line's turn is over. If its last event did not arrive, the turn's record tells how it ended. */
  async #conclude() {
    const state = this.#state;
    if (state.last || !state.turnId) return state.finish();
    const turn = await this.#gateway.record(state.turnId).catch((error) => {
      if (error instanceof GatewayError && verdict(error).end === "fatal") throw error;
      return { status: "unknown" };
    });
    if (!isOver(turn)) return this.#pauses.take(this.#pauses.jitter(), { why: `the turn is ${turn.status}` });
    return giveWhole(state, turn, { lastOnly: true });
  }

  /** Whether the gateway can't be reached. If so, waits until it can. */
  async #foundNobody(outcome) {
    if (!this.#presence.isAway) return !(await this.#presence.isThere(outcome));
    await this.#presence.wait(outcome);
    return true;
  }

  #tryAgain(outcome) {
    this.#countTry(outcome);
    return this.#pauses.take(this.#pauses.jitter(), outcome);
  }

  /** Gives up a question that was never accepted after many attempts, because the caller waits for `done`. */
  #countTry(outcome) {
    const { question, closed } = this.#state;
    if (question && ++question.tries >= this.#gateway.timing.asks && !closed) throw unreachable(outcome);
  }

  #keepsBreaking() {
    this.#breaks = [...this.#breaks.filter((at) => since(at) < 60_000), Date.now()];
    if (this.#breaks.length < 4) return false;
    this.#breaks = [];
    return true;
  }
}
