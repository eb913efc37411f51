/** The health of transports. */
import { since } from "./values.js";

/** How well each transport has worked with one gateway. All lines of a page share it, so they learn from each other. */
export class Health {
  static #known = new Map();
  #marks = new Map();
  seats = 0; // how many seats streams and long-polls take now
  isThere = false; // whether the gateway has answered since the last knock, perhaps one of another line
  knockedAt = -Infinity;
  #waiting = new Set(); // functions that wake the lines which wait for the gateway

  static of(base) {
    let health = Health.#known.get(base);
    if (!health) Health.#known.set(base, (health = new Health()));
    return health;
  }

  /** @param {"network"|"own"} fault whether the network or the transport itself is to blame */
  blame(name, fault, timing) {
    const failures = (this.#marks.get(name)?.failures ?? 0) + 1;
    const ms = Math.min(timing.penaltyMs * 2 ** (failures - 1), timing.penaltyMaxMs);
    this.#marks.set(name, { failures, fault, ms, at: Date.now(), proved: false });
  }

  /** A probe has seen the transport work. Only its use clears its failures. */
  prove(name) {
    const mark = this.#marks.get(name);
    if (mark) mark.proved = true;
  }

  trusted(name) { return this.#marks.get(name)?.proved ?? true; }

  clear(name) { this.#marks.delete(name); }

  /** For how many more milliseconds the transport should not be used. */
  banned(name) {
    const mark = this.#marks.get(name);
    return mark ? Math.max(mark.ms - since(mark.at), 0) : 0;
  }

  /** Calls `wake` once somebody has answered any line of the page. @returns a function that forgets it */
  whenAnswered(wake) {
    this.#waiting.add(wake);
    return () => this.#waiting.delete(wake);
  }

  knocks() {
    this.isThere = false;
    return (this.knockedAt = Date.now());
  }

  answered() {
    this.isThere = true;
    for (const wake of this.#waiting) wake();
  }

  /** No transport works: clears the failures that were the network's, so that the best transport is tried first again. */
  forgive(names) {
    for (const name of names) if (this.#marks.get(name)?.fault === "network") this.#marks.delete(name);
  }
}
