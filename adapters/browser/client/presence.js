/** Presence: whether a gateway is there to answer. */
import { GatewayError, unreachable, whyNot } from "./errors.js";
import { since } from "./values.js";

/** @typedef {import("./errors.js").Outcome} Outcome */

const AWAY_MS = { first: 1_000, longest: 7_000 }; // delays while the gateway does not answer; each is shortened by up to half at random
const KNOCK_GAP_MS = 1_000; // the least time between two knocks of all lines of a page together
const LEG_EVERY = 3; // every third attempt opens a connection, in case only the configuration can't be reached
const REFUSALS = 3; // refusals of the page's origin until that is final: during a restart gateways may differ

export class Presence {
  #offline = false; // the browser says that it is offline, and nothing answered; a gateway on this machine may answer all the same
  #away; // while the gateway does not answer: the last delay, the number of attempts, and which of the page's knocks was this line's
  #gateway;
  #health;
  #state;
  #pauses;
  #random;

  constructor({ gateway, health, state, pauses, random }) {
    this.#gateway = gateway;
    this.#health = health;
    this.#state = state;
    this.#pauses = pauses;
    this.#random = random;
  }

  /** Whether nobody answered the last attempt. */
  get isAway() { return this.#away !== undefined; }

  /** Whether the browser says that it is offline, and indeed nobody answered. */
  get isOffline() { return this.#offline && globalThis.navigator?.onLine === false; }

  /**
   * Whether to open a connection, which one small request finds out. As long as the gateway does not answer, the line
   * waits longer and longer and repeats only that request; now and then it tries a connection.
   * @param {Outcome} [outcome] of a connection that nobody answered
   */
  async isThere(outcome) {
    let found = { why: "unreachable" };
    const began = Date.now();
    if (this.#mayKnock()) {
      if (this.#away && ++this.#away.tries % LEG_EVERY === 0) {
        if (!this.#gateway.config) this.#gateway.believe({});
        this.#away.knockedAt = this.#health.knocks();
        return true;
      }
      found = await this.#knock();
      if (this.#state.closed) return false;
    } else if (this.#health.isThere) found = { config: this.#gateway.kept?.config ?? this.#gateway.config ?? {} };
    if (!found.config) {
      await this.wait({ end: outcome?.end, ...found }, since(began));
      return false;
    }
    this.#gateway.believe(found.config);
    this.answered();
    return true;
  }

  /** While nobody answers, one line knocks for all lines of the page, even if another one is told to try at once. */
  #mayKnock() {
    if (!this.#away || this.#away.knockedAt === this.#health.knockedAt) return true;
    return since(this.#health.knockedAt) >= Math.min(KNOCK_GAP_MS, this.#longestMs);
  }

  /** @returns {Promise<{config?: object, why?: string, error?: GatewayError}>} */
  async #knock() {
    this.#state.report("connecting", {});
    if (this.#state.closed) return {};
    const { kept } = this.#gateway;
    if (!this.#away && !this.#gateway.config && kept && since(kept.at) < 60_000) return kept;
    const knockedAt = this.#health.knocks();
    if (this.#away) this.#away.knockedAt = knockedAt;
    try {
      return { config: await this.#gateway.readConfig(Math.max(this.#gateway.timing.configMs, this.#delayMs)) };
    } catch (error) {
      return error instanceof GatewayError ? { error } : { why: whyNot(error) };
    }
  }

  /** Nobody answered: waits for half to all of a delay that doubles, less the time that the attempt itself took. */
  async wait(outcome, waitedMs = 0) {
    const { timing } = this.#gateway;
    this.#offline = globalThis.navigator?.onLine === false;
    this.#away ??= { spentMs: 0, knockedAt: this.#health.knockedAt, tries: 0, delays: 0, refusals: 0 };
    if (outcome.error?.code === "forbidden_origin" && ++this.#away.refusals >= REFUSALS) throw outcome.error;
    if (this.#state.question && this.#away.spentMs >= timing.asks * this.#longestMs) throw unreachable(outcome);
    const ms = (this.#delayMs * (1 + this.#random())) / 2;
    const delayMs = Math.max(ms - waitedMs, Math.min(ms, AWAY_MS.first / 2));
    this.#away.delays++;
    const began = Date.now();
    const forget = this.#health.whenAnswered(() => this.#pauses.wake());
    await this.#pauses.take(delayMs, outcome);
    forget();
    // If the machine slept meanwhile, the time does not count as waiting.
    if (this.#away) this.#away.spentMs += Math.min(since(began), delayMs) + Math.min(waitedMs, timing.requestMs);
  }

  get #delayMs() { return Math.min(AWAY_MS.first * 2 ** (this.#away?.delays ?? 0), this.#longestMs); }

  get #longestMs() { return Math.min(AWAY_MS.longest, this.#gateway.timing.backoffMaxMs); }

  /** The gateway is there, in whichever way that was found out. */
  answered() {
    this.#offline = false;
    if (!this.#away) return;
    this.#away = undefined;
    this.#health.answered();
  }

  /** Ends a wait, and makes the next ones short again. */
  hurry() {
    if (this.#away) [this.#away.delays, this.#away.knockedAt] = [0, undefined];
    this.#pauses.wake();
  }
}
