/** One connection of a line, from its opening to its end. */

export class Leg {
  opened = false; // whether anything arrived
  answered = false; // whether the gateway answered
  progressed = false; // whether the leg brought a new event
  given = false; // whether it brought one since this was last set to false
  #abort = new AbortController();
  #presence;
  #onOpen;

  /**
   * @param {object} parts
   * @param {string} parts.name of its transport
   * @param {import("../gateway.js").Gateway} parts.gateway
   * @param {import("../state.js").State} parts.state of the line
   * @param {import("../presence.js").Presence} parts.presence
   * @param {(leg: Leg) => void} parts.onOpen
   */
  constructor({ name, gateway, state, presence, onOpen }) {
    this.name = name;
    this.gateway = gateway;
    this.state = state;
    this.#presence = presence;
    this.#onOpen = onOpen;
  }

  /** A signal that aborts when the line leaves this connection. */
  get signal() { return this.#abort.signal; }

  abort() { this.#abort.abort(); }

  /** Something answered. A proxy's 5xx means that the gateway behind it did not. */
  heard(status = 200) {
    if (status >= 500) return;
    this.answered = true;
    this.#presence.answered();
  }

  open() {
    if (this.opened || this.signal.aborted) return;
    this.opened = true;
    this.state.report("open", { transport: this.name });
    this.#onOpen(this);
  }

  /** Gives an event, unless it was given before. @returns whether the line's last event is given */
  deliver(event, id) {
    if (this.signal.aborted) return false;
    const isNew = this.state.deliver(event, id);
    if (isNew && event.event !== "reset") this.progressed = this.given = true;
    return this.state.last !== null;
  }
}
