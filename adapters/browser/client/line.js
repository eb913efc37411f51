/**
 * A line: the loop that picks a transport, reads one connection to its end, decides what that means, and goes on at the
 * same position. At any moment at most one connection delivers, so an event is never given twice nor out of order.
 */
import { Decisions } from "./decisions.js";
import { GatewayError, failure, verdict, whyNot } from "./errors.js";
import { isEvent } from "./events.js";
import { Gateway } from "./gateway.js";
import { Healing } from "./healing.js";
import { Health } from "./health.js";
import { Leg } from "./legs/leg.js";
import { READ } from "./legs/legs.js";
import { Pauses } from "./pauses.js";
import { Presence } from "./presence.js";
import { ask } from "./question.js";
import { watchSignal } from "./signals.js";
import { State } from "./state.js";
import { Stop } from "./stop.js";
import { Tab } from "./tab.js";
import { Transports } from "./transports.js";
import { since } from "./values.js";
import { askWhole } from "./whole.js";

/** @typedef {import("./errors.js").Outcome} Outcome */

export class Line {
  #leg = null; // the open connection, with `abort()`
  #leaves = false; // whether another transport was chosen while the question was on its way
  #primes = 0; // how often the present position could not be learnt
  #options;
  #forget = () => {}; // stops listening to the caller's signal
  #gateway;
  #health;
  #transports;
  #pauses;
  #presence;
  #tab;
  #healing;
  #stop;
  #decisions;

  /**
   * @param {object} options the caller's
   * @param {{scope?: string, question?: import("./question.js").Question, position?: string}} start
   * @param {(last: object|null, error: Error|undefined) => void} [onEnd] called once, last of all
   */
  constructor(options, start, onEnd) {
    this.#options = options;
    const state = (this.state = new State(options, start, { onTaken: () => this.#taken(), onEnd }));
    const random = options.random ?? Math.random;
    const gateway = (this.#gateway = new Gateway(options, state.signal));
    const health = (this.#health = Health.of(gateway.base));
    const transports = (this.#transports = new Transports(options, { gateway, health }));
    const pauses = (this.#pauses = new Pauses({ gateway, state, random }));
    const presence = (this.#presence = new Presence({ gateway, health, state, pauses, random }));
    this.#tab = new Tab(options, { state, quietAfterMs: gateway.timing.quietAfterMs }, {
      onQuiet: () => this.#interrupt(),
      onReturn: () => this.retryNow(),
      onOffline: () => { this.#leg?.abort(); pauses.wake(); },
    });
    this.#healing = new Healing({ gateway, state, health, transports, onHealed: () => this.#interrupt() });
    this.#stop = new Stop({ gateway, state, pauses, random });
    this.#decisions = new Decisions({ gateway, state, health, transports, pauses, presence, random });
    watchSignal(state.signal, () => this.#release());
  }

  async run() {
    await undefined; // so that the caller has its handle before the first callback
    if (this.state.closed) return;
    try {
      this.#forget = watchSignal(this.#options.signal, () => this.close());
      this.#tab.listen();
      while (!this.state.closed) await this.#round();
    } catch (error) {
      this.state.finish(error);
    }
  }

  async #round() {
    const { state } = this;
    await this.#stop.looked();
    await this.#seen();
    if (!state.closed && this.#pauses.isHeld) return this.#pauses.goOn();
    const isKnown = this.#gateway.config && !this.#presence.isAway;
    if (!state.closed && !isKnown && !(await this.#presence.isThere())) return undefined;
    if (!state.closed && state.isNowhere && !(await this.#prime())) return undefined;
    if (state.closed) return undefined;
    if (state.question && this.#transports.wholeAnswer) return this.#askWhole();
    const name = this.#transports.choose();
    state.transport = name;
    const { liking } = this.#transports;
    state.report("connecting", { transport: name, ...(!liking.includes(name) && { reason: `no ${liking.join(" or ")} here` }) });
    if (state.closed) return undefined; // a handler closed the line
    const outcome = await this.#ride(name);
    return state.closed ? undefined : this.#decisions.decide(name, outcome);
  }

  /** Waits until a connection is of use: the tab is seen, the browser is online. */
  async #seen() {
    const { state } = this;
    while (this.#tab.isQuiet && !state.closed) {
      state.report("waiting", { reason: "hidden" });
      await this.#pauses.sleep(Infinity);
    }
    if (this.#presence.isOffline && !state.closed) {
      state.report("offline", {});
      await this.#pauses.sleep(30_000); // one attempt now and then
    }
  }

  /** Opens one connection and reads it to its end. @returns {Promise<Outcome>} */
  async #ride(name) {
    const { state } = this;
    const began = Date.now();
    const leg = (this.#leg = new Leg({
      name, gateway: this.#gateway, state, presence: this.#presence, onOpen: (opened) => this.#healing.plan(opened),
    }));
    this.#transports.takeSeat(name);
    const outcome = await this.#read(leg);
    const interrupted = leg.signal.aborted;
    leg.abort(); // closes whatever the leg left open
    this.#healing.stop();
    this.#transports.leaveSeat();
    const lasted = leg.opened && outcome.end !== "buffered" && since(began) > 10_000;
    if (lasted || outcome.end === "finished") this.#health.clear(name);
    if (lasted || leg.progressed) this.#pauses.shorten();
    if (leg.progressed || (leg.opened && since(began) > 1_000)) this.#decisions.tokenWorked();
    return interrupted ? { end: "interrupted" } : { ...outcome, progressed: leg.progressed, answered: leg.answered };
  }

  /** @returns {Promise<Outcome>} never rejects */
  async #read(leg) {
    try {
      const asks = this.state.question && leg.name !== "sse"; // with SSE, the stream itself is the answer to the question
      return (asks && (await ask(leg, leg.signal, (status) => leg.heard(status)))) || (await READ[leg.name](leg));
    } catch (error) {
      if (error instanceof GatewayError) return verdict(error);
      return { end: leg.opened ? "broke" : "refused", fault: "network", why: leg.opened ? String(error?.message ?? error) : whyNot(error) };
    }
  }

  async #askWhole() {
    const { state } = this;
    state.transport = undefined;
    state.report("connecting", { reason: "whole answer" });
    if (state.closed) return undefined;
    const abort = (this.#leg = new AbortController());
    const outcome = await askWhole({ gateway: this.#gateway, state, presence: this.#presence }, abort.signal);
    return outcome && this.#decisions.alone(outcome);
  }

  /**
   * A line that begins "now" first learns the present position. Without it, events before the first one that arrives would
   * be lost if the connection broke. If the position can't be learnt, the line listens all the same, and asks again before
   * its next connection.
   * @returns whether to open one now
   */
  async #prime() {
    const { state } = this;
    const { configMs } = this.#gateway.timing;
    const began = Date.now();
    try {
      const { events, next } = await this.#gateway.json(`${state.path}/poll`, { query: { wait: 0 }, timeoutMs: configMs });
      this.#presence.answered();
      for (const event of events) if (isEvent(event)) state.deliver(event);
      state.moveTo(next);
      return true;
    } catch (error) {
      if (state.closed) return false;
      const outcome = failure(error);
      const inVain = outcome.end === "refused" && !this.#presence.isAway;
      if (inVain && (++this.#primes >= 3 || since(began) >= configMs)) return true;
      await this.#decisions.alone(outcome);
      return false;
    }
  }

  /** The question has become a turn. */
  #taken() {
    this.#pauses.release();
    if (this.#leaves && this.state.transport !== this.#transports.liking[0]) this.#leg?.abort();
    this.#leaves = false;
  }

  close() {
    this.state.finish(new DOMException("The line was closed; the turn goes on.", "AbortError"));
  }

  async cancel() {
    this.#tab.attend();
    this.#pauses.wake();
    return this.#stop.cancel();
  }

  /** Ends a pause, but none that the gateway asked for; the next ones are short again. */
  retryNow() { this.#presence.hurry(); }

  prefer(transports) {
    this.#transports.like(transports);
    const [best] = this.#transports.liking;
    this.#health.clear(best);
    if (this.state.transport !== best) this.#interrupt();
  }

  /** Leaves what is open now; the loop goes on at once. */
  #interrupt() {
    if (this.state.question) this.#leaves = true; // only after the question has arrived: its first connection must not be cut
    else this.#leg?.abort();
    this.#pauses.wake(true);
  }

  #release() {
    this.#forget();
    this.#tab.leave();
    this.#healing.stop();
    this.#leg?.abort();
    this.#pauses.wake(true);
  }
}
