/** The transports of a line: the preferred ones, the available ones, and the next one. */

const KNOWN = ["sse", "websocket", "longpoll", "eventsource"];
const LIKING = ["sse", "websocket", "longpoll"];
const SEATS = 2; // how many streams and long-polls a page holds: over HTTP/1.1 browsers allow six connections per host, for all tabs

export class Transports {
  liking; // the caller's, in order of preference
  #seated = false; // whether it holds one of the page's seats
  #options;
  #gateway;
  #health;

  /** @param {object} options the caller's, with `transports` and `streaming` */
  constructor(options, { gateway, health }) {
    this.#options = options;
    this.#gateway = gateway;
    this.#health = health;
    this.like(options.transports);
  }

  like(transports) {
    const list = transports ?? LIKING;
    if (!Array.isArray(list) || !list.length || !list.every((name) => KNOWN.includes(name))) {
      throw new TypeError(`transports must be a list out of ${KNOWN.join(", ")}, not ${JSON.stringify(list)}`);
    }
    this.liking = [...new Set(list)];
  }

  /** The transports that both the browser and the gateway have, in order of preference; sockets first if no seat is free. */
  usable() {
    const { fetch, WebSocket, EventSource } = this.#gateway;
    const { transports } = this.#gateway.config;
    const here = { sse: fetch && canReadStreams(), websocket: WebSocket, longpoll: fetch, eventsource: EventSource };
    const served = (name) => {
      if (!this.#streaming) return name === "longpoll";
      return !Array.isArray(transports) || transports.includes(name === "eventsource" ? "sse" : name);
    };
    const usable = this.liking.filter((name) => here[name] && served(name));
    if (!usable.length) return ["longpoll"]; // it needs the least, so it always works
    const crowded = this.#health.seats - (this.#seated ? 1 : 0) >= SEATS;
    return crowded ? usable.sort((a, b) => (b === "websocket") - (a === "websocket")) : usable;
  }

  get #streaming() { return this.#gateway.config.streaming !== false && this.#options.streaming !== false; }

  /** Whether the whole answer is requested at once, because the gateway does not stream or this browser can't. */
  get wholeAnswer() {
    if (!this.#streaming) return true;
    const wantsStreams = this.liking.includes("sse") || this.liking.includes("eventsource");
    return wantsStreams && !this.#gateway.EventSource && !canReadStreams();
  }

  choose() {
    const usable = this.usable();
    const trusted = usable.find((name) => this.#health.trusted(name));
    return trusted ?? usable.reduce((best, name) => (this.#health.banned(name) < this.#health.banned(best) ? name : best));
  }

  /** A connection by `name` begins. */
  takeSeat(name) {
    this.#seated = name !== "websocket";
    if (this.#seated) this.#health.seats++;
  }

  leaveSeat() {
    if (this.#seated) this.#health.seats--;
    this.#seated = false;
  }
}

function canReadStreams() {
  return typeof globalThis.ReadableStream === "function" && typeof globalThis.Response === "function" && "body" in Response.prototype;
}
