/** What a line does when a connection has ended. */
import { GatewayError, isGateways, unreachable, verdict } from "./errors.js";
import { since } from "./values.js";
import { giveWhole, isOver } from "./whole.js";

/** @typedef {import("./errors.js").Outcome} Outcome */

const RENEWALS = 4; // of a token that the gateway refuses, one after another

export class Decisions {
  #breaks = []; // when connections broke, for a minute
  #refusals = 0; // of tokens, one after another
  #refusedAt = -Infinity; // when a token was last refused
  #disabled = 0; // how often it was told that there is no streaming
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
      case "told": { // the gateway has spread this delay already; a tenth more keeps clones apart
        const advised = outcome.delayMs ?? this.#gateway.advisedMs * (0.5 + this.#random());
        if (outcome.progressed) return this.#pauses.take(advised, outcome, { spread: 0.1, firm: true });
        // Told so each time and given nothing: perhaps somebody on the way ends what has just begun.
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
        // Only where somebody is there, another transport may fare better.
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

  /** For a request that no other transport can stand in for: what is not final is tried again. @param {Outcome} outcome */
  async alone(outcome) {
    if (outcome.end !== "refused") return this.decide("longpoll", outcome);
    const { error } = outcome;
    if ((!error || (error.status >= 500 && !isGateways(error))) && (await this.#foundNobody(outcome))) return undefined;
    return this.#tryAgain(outcome);
  }

  /** The present token was good for a while. */
  tokenWorked() { this.#refusals = 0; }

  #fatal(outcome) {
    const { config, timing, renewsToken } = this.#gateway;
    if (outcome.error.code === "unauthorized" && renewsToken && this.#refusals < RENEWALS) {
      // A fresh token is asked for at once; a clock that is slow gives the old one for a while yet.
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

  /** The line's turn is over. When its last event was not seen here, the turn's record says how it ended. */
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

  /** Whether nobody answers, which it waits for then. */
  async #foundNobody(outcome) {
    if (!this.#presence.isAway) return !(await this.#presence.isThere(outcome));
    await this.#presence.wait(outcome);
    return true;
  }

  #tryAgain(outcome) {
    this.#countTry(outcome);
    return this.#pauses.take(this.#pauses.jitter(), outcome);
  }

  /** A question that was never taken must not be sent for ever: somebody waits for `done`. */
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
