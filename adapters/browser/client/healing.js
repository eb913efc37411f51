/** Healing: the way back from one transport to a better one. */
import { probe } from "./legs/legs.js";

export class Healing {
  #timer;
  #gateway;
  #state;
  #health;
  #transports;
  #onHealed;

  /** @param {() => void} parts.onHealed a better transport than the present one works again */
  constructor({ gateway, state, health, transports, onHealed }) {
    this.#gateway = gateway;
    this.#state = state;
    this.#health = health;
    this.#transports = transports;
    this.#onHealed = onHealed;
  }

  /** @param {import("./legs/leg.js").Leg} leg the present connection */
  plan(leg) {
    const usable = this.#transports.usable();
    const better = usable.includes(leg.name) ? usable.slice(0, usable.indexOf(leg.name)) : usable;
    if (!better.length) return;
    const ms = Math.min(...better.map((name) => this.#health.banned(name)));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#heal(leg, better), ms + 50);
  }

  stop() { clearTimeout(this.#timer); }

  /** Tries a better transport on a separate connection while the present one keeps delivering. */
  async #heal(leg, better) {
    const candidate = better.find((name) => !this.#health.banned(name));
    const works = candidate !== undefined && (await probe({ gateway: this.#gateway, state: this.#state }, candidate, leg.signal));
    if (leg.signal.aborted || this.#state.closed) return;
    if (works) {
      this.#health.prove(candidate);
      this.#onHealed();
    } else {
      if (candidate) this.#health.blame(candidate, "own", this.#gateway.timing);
      this.plan(leg);
    }
  }
}
