/** The transports of a line: which are liked, which are to be had, and which is the next. */

const KNOWN = ["sse", "websocket", "longpoll", "eventsource"];
const LIKING = ["sse", "websocket", "longpoll"];
const SEATS = 2; // how many streams and long-polls a page holds: browsers allow six to a host over HTTP/1.1, for all tabs

export class Transports {
  liking; // in this order
  #seated = false; // holds one of the page's seats
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

  /** The ones that this browser and this gateway both have, in order of liking, but sockets first in a crowd. */
  usable() {
    const { fetch, WebSocket, EventSource } = this.#gateway;
    const { transports } = this.#gateway.config;
    const here = { sse: fetch && canReadStreams(), websocket: WebSocket, longpoll: fetch, eventsource: EventSource };
    const served = (name) => {
      if (!this.#streaming) return name === "longpoll";
      return !Array.isArray(transports) || transports.includes(name === "eventsource" ? "sse" : name);
    };
    const usable = this.liking.filter((name) => here[name] && served(name));
    if (!usable.length) return ["longpoll"]; // it needs the least, so it is always there
    const crowded = this.#health.seats - (this.#seated ? 1 : 0) >= SEATS;
    return crowded ? usable.sort((a, b) => (b === "websocket") - (a === "websocket")) : usable;
  }

  get #streaming() { return this.#gateway.config.streaming !== false && this.#options.streaming !== false; }

  /** Whether the whole answer is asked for at once: the gateway does not stream, or this browser cannot. */
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
