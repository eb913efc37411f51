/**
 * Browser and Node client of the Coze stream gateway. One ES module, no dependency.
 *
 * `chat()` asks a question and streams the answer, `connect()` listens to a turn, a conversation or a shop. Both ride on
 * one `Line`: a loop that picks a transport, reads it until it ends, decides what that means, and goes on at the same
 * position. At any moment at most one connection delivers, so an event is never given twice nor out of order.
 */

/** @typedef {"sse"|"websocket"|"longpoll"|"eventsource"} Transport */
/** @typedef {import("./coze-gateway").GatewayEvent} GatewayEvent */

const KNOWN = ["sse", "websocket", "longpoll", "eventsource"];
const LIKING = ["sse", "websocket", "longpoll"];
const LAST = new Set(["completed", "cancelled", "error"]); // events
const OVER = new Set(["completed", "cancelled", "failed"]); // statuses
const BODY_FIELDS = [
  "userId", "message", "botId", "shopId", "conversationId", "attachments", "customVariables", "metaData", "onBusy",
  "onDisconnect",
];
const SEATS = 2; // how many streams and long-polls a page holds: browsers allow six to a host over HTTP/1.1, for all tabs
const LARGEST = 64 * 2 ** 20; // characters of one event or one answer: four times what the gateway lets an answer have
const LINE_COST = 16; // of an event: what each of its lines takes beside its characters
const SEEN = 20_000; // ids that are remembered: a server that begins anew repeats a long answer's events
const TRIES = 5; // of a stop that the gateway does not take
const RENEWALS = 4; // of a token that the gateway refuses, one after another
const REFUSALS = 3; // of the page's origin, until that is final: gateways that are being restarted may differ
const AWAY_MS = { first: 1_000, longest: 7_000 }; // delays while nobody answers, each from half of it on
const KNOCK_GAP_MS = 1_000; // the least time between two knocks, by all lines of a page together
const LEG_EVERY = 3; // so many tries while nobody answers, one is a connection: the configuration alone may be out of reach
const TIMING = {
  firstByteMs: 3_000, // a healthy gateway writes at once, so longer silence means a proxy that buffers
  quietAfterMs: 5_000, // how long a tab stays hidden before its connection is given back
  penaltyMs: 5_000, // how long a failed transport is left alone; doubles with each failure
  penaltyMaxMs: 120_000,
  backoffMaxMs: 30_000,
  pollSeconds: 25,
  pollGapMs: 150, // the least time between two long-polls, so that a fast answer is not a request a piece
  configMs: 3_000,
  requestMs: 15_000, // a plain request's, and `token()`'s
  stopMs: 500, // how long a stop waits for the turn of a question that is on its way
  asks: 8, // how often a question is tried, each time by every transport that may bring it, before giving up
};

/** What the gateway refused, or why it could not be reached. `code` is one of the gateway's problem codes. */
export class GatewayError extends Error {
  constructor(message, { status = 0, code = "unreachable", retryAfterMs, problem } = {}) {
    super(message);
    this.name = "GatewayError";
    this.status = status;
    this.code = code;
    this.retryAfterMs = retryAfterMs;
    this.problem = problem;
  }
}

/** The text of an answer after one more event: joins pieces, starts over at `replace` and `reset`. */
export function fold(text, event) {
  if (event.event === "message") {
    if ((event.contentType !== undefined && event.contentType !== "text") || typeof event.content !== "string") return text;
    return event.replace ? event.content : text + event.content;
  }
  if (event.event === "started") return "";
  const whole = event.event === "reset" || LAST.has(event.event);
  return whole && typeof event.content === "string" ? event.content : text;
}

/** Incremental parser of `text/event-stream` as the WHATWG specification defines it; text comes in pieces cut anywhere. */
export class EventStreamParser {
  #partial = "";
  #afterCr = false;
  #begun = false;
  #data = [];
  #size = 0; // of what is kept for the event that is on its way
  #id;
  #type = "";

  /** @param {{onEvent: (data: string, id: string|undefined, type: string) => void, onRetry?: (ms: number) => void,
   *           onComment?: (text: string) => void, onId?: (id: string) => void}} handlers */
  constructor(handlers) {
    this.handlers = handlers;
  }

  push(chunk) {
    if (!chunk) return;
    let start = 0;
    if (!this.#begun) {
      this.#begun = true;
      if (chunk.charCodeAt(0) === 0xfeff) start = 1;
    }
    if (this.#afterCr && chunk.charCodeAt(start) === 10) start++;
    this.#afterCr = false;
    const ends = /\r\n|\n|\r/g;
    ends.lastIndex = start;
    for (let end; (end = ends.exec(chunk)); start = ends.lastIndex) {
      const line = this.#partial + chunk.slice(start, end.index);
      this.#partial = "";
      if (end[0] === "\r" && ends.lastIndex === chunk.length) this.#afterCr = true;
      this.#line(line);
    }
    this.#partial += chunk.slice(start);
    if (this.#size + this.#partial.length > LARGEST) throw new RangeError("The event is too large.");
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return this.handlers.onComment?.(line.slice(1).trim());
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.charCodeAt(0) === 32) value = value.slice(1);
    if (field === "data") {
      this.#data.push(value);
      this.#size += value.length + LINE_COST;
    }
    if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.handlers.onRetry?.(Number(value));
  }

  #dispatch() {
    const data = this.#data;
    const type = this.#type;
    this.#data = [];
    this.#size = 0;
    this.#type = "";
    if (data.length) this.handlers.onEvent(data.join("\n"), this.#id, type || "message");
    else if (this.#id !== undefined) this.handlers.onId?.(this.#id);
  }
}

/**
 * Listens to `turns/ID`, `conversations/ID` or `shops/ID`. A turn's line closes by itself after its last event.
 * @param {import("./coze-gateway").ConnectOptions} options
 * @returns {import("./coze-gateway").Connection}
 */
export function connect(options) {
  if (!/^(turns|conversations|shops)\/./.test(String(options?.scope ?? ""))) {
    throw new TypeError(`scope must be "turns/ID", "conversations/ID" or "shops/ID", not ${JSON.stringify(options?.scope)}`);
  }
  const nowhere = options.after === null || options.after === ""; // what a storage gives that has none
  if (!nowhere && options.after !== undefined) headerValue("after", String(options.after));
  const line = new Line(options, { scope: String(options.scope), position: nowhere ? undefined : options.after });
  line.run();
  return {
    close: () => line.close(),
    prefer: (transports) => line.prefer(transports),
    retryNow: () => line.retryNow(),
    get position() { return line.position; },
    get transport() { return line.transport; },
    get state() { return line.state; },
  };
}

/**
 * Asks a question. `done` settles once: with the turn's last event, or rejected with a `GatewayError` when the gateway
 * did not take the question, or with an `AbortError` after `close()` or the signal.
 * @param {import("./coze-gateway").ChatOptions} options
 * @returns {import("./coze-gateway").Chat}
 */
export function chat(options = {}) {
  const body = {};
  for (const field of BODY_FIELDS) if (options[field] !== undefined) body[field] = options[field];
  const key = headerValue("idempotencyKey", options.idempotencyKey ?? randomId());
  const question = { body, text: JSON.stringify(body), key, asks: 0 };
  const line = new Line(options, { question });
  const done = new Promise((resolve, reject) => {
    line.onEnd = (last, error) => (error ? reject(error) : resolve(last));
  });
  done.catch(() => {}); // whoever does not look at `done` asked for no unhandled rejection
  line.run();
  return {
    done,
    cancel: () => line.cancel(),
    close: () => line.close(),
    prefer: (transports) => line.prefer(transports),
    retryNow: () => line.retryNow(),
    get conversationId() { return line.conversationId; },
    get turnId() { return line.turnId; },
    get position() { return line.position; },
    get transport() { return line.transport; },
    get state() { return line.state; },
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** How each transport has fared against one gateway; shared by all lines of a page, so a lesson is learnt once. */
class Health {
  static #known = new Map();
  #marks = new Map();
  seats = 0; // taken now, out of SEATS
  isThere = false; // somebody has answered since the last knock, which may be one of another line
  knockedAt = -Infinity;
  #waiting = new Set(); // what wakes the lines that nobody has answered

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

  /** A probe has seen it work; only use will clear its record. */
  prove(name) {
    const mark = this.#marks.get(name);
    if (mark) mark.proved = true;
  }

  trusted(name) { return this.#marks.get(name)?.proved ?? true; }

  clear(name) { this.#marks.delete(name); }

  /** For how many milliseconds it should be left alone yet. */
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

  /** When nothing works it was the network: its victims are innocent, and the best one is tried first again. */
  forgive(names) {
    for (const name of names) if (this.#marks.get(name)?.fault === "network") this.#marks.delete(name);
  }
}

/** One listener: the loop, its timers, its one open leg. */
class Line {
  position;
  transport;
  state = "connecting";
  conversationId;
  turnId;
  onEnd = () => {};

  #closed = false;
  #life = new AbortController(); // ends what is asked beside the legs
  #leg = null; // the AbortController of what is open now
  #wake = null; // ends a pause early; one that the gateway asked for only when told `byForce`
  #attempt = 0;
  #breaks = []; // when connections broke, for a minute
  #patience = 1;
  #retryMs;
  #offline = false; // nobody answered while the browser said that it was offline; a gateway on this machine may answer all the same
  #quiet = false;
  #quietTimer;
  #held; // the pause that the gateway asked for: since when, how long, and why
  #healTimer;
  #leaves = false; // another transport was wished for while the question was on its way
  #seated = false; // holds one of the page's seats
  #primes = 0; // how often it could not be told where now is
  #seen = new Set();
  #last = null;
  #stopping; // a promise, while a stop looks for its turn: nothing is asked meanwhile
  #refusals = 0; // of tokens, one after another
  #renewedAt = -Infinity; // when a token was last refused
  #disabled = 0; // how often it was told that there is no streaming
  #unlisten = [];
  #config; // what the gateway says it can, once somebody was there to ask
  #away; // while nobody answers: what was waited, how often it was tried, and which of the page's knocks was this line's
  heartbeatSeconds = 15;

  constructor(options, { scope, question, position }) {
    this.options = options;
    this.base = baseOf(options.baseUrl);
    this.timing = timingOf(options.timing);
    this.random = options.random ?? Math.random;
    this.scope = scope;
    this.question = question;
    this.position = position;
    this.conversationId = question?.body.conversationId;
    if (scope?.startsWith("turns/")) this.turnId = scope.slice(6);
    this.health = Health.of(this.base);
    this.fetch = (options.network?.fetch ?? globalThis.fetch)?.bind(globalThis);
    this.WebSocket = options.network?.WebSocket ?? globalThis.WebSocket;
    this.EventSource = options.network?.EventSource ?? globalThis.EventSource;
    if (options.language) headerValue("language", options.language);
    this.#likes(options.transports);
  }

  #likes(transports) {
    const list = transports ?? LIKING;
    if (!Array.isArray(list) || !list.length || !list.every((name) => KNOWN.includes(name))) {
      throw new TypeError(`transports must be a list out of ${KNOWN.join(", ")}, not ${JSON.stringify(list)}`);
    }
    this.liking = [...new Set(list)];
  }

  /** The transports that this browser and this gateway both have, in order of liking, but sockets first in a crowd. */
  #usable() {
    const { transports } = this.#config;
    const streaming = this.#config.streaming !== false && this.options.streaming !== false;
    const here = { sse: this.fetch && canReadStreams(), websocket: this.WebSocket, longpoll: this.fetch, eventsource: this.EventSource };
    const served = (name) => {
      if (!streaming) return name === "longpoll";
      return !Array.isArray(transports) || transports.includes(name === "eventsource" ? "sse" : name);
    };
    const usable = this.liking.filter((name) => here[name] && served(name));
    if (!usable.length) return ["longpoll"]; // it needs the least, so it is always there
    const crowded = this.health.seats - (this.#seated ? 1 : 0) >= SEATS;
    return crowded ? usable.sort((a, b) => (b === "websocket") - (a === "websocket")) : usable;
  }

  /** Whether the whole answer is asked for at once: the gateway does not stream, or this browser cannot. */
  #wholeAnswer() {
    if (this.#config.streaming === false || this.options.streaming === false) return true;
    const wantsStreams = this.liking.includes("sse") || this.liking.includes("eventsource");
    return wantsStreams && !this.EventSource && !canReadStreams();
  }

  // -- the loop

  async run() {
    await undefined; // the caller gets its handle before the first word about it
    if (this.#closed) return;
    try {
      this.#unlisten.push(watchSignal(this.options.signal, () => this.close()));
      this.#listenToTheTab();
      while (!this.#closed) await this.#round();
    } catch (error) {
      this.#finish(error);
    }
  }

  async #round() {
    await this.#stopping;
    await this.#presence();
    if (!this.#closed && this.#held) return this.#goOnWaiting();
    if (!this.#closed && (this.#away || !this.#config) && !(await this.#isThere())) return;
    if (!this.#closed && this.#isNowhere() && !(await this.#prime())) return;
    if (this.#closed) return;
    if (this.question && this.#wholeAnswer()) return this.#askWhole();
    const name = this.#choose();
    this.transport = name;
    const instead = this.liking.includes(name) ? {} : { reason: `no ${this.liking.join(" or ")} here` };
    this.#report("connecting", { transport: name, ...instead });
    if (this.#closed) return; // by who was told
    const outcome = await this.#ride(name);
    if (!this.#closed) await this.#decide(name, outcome);
  }

  /**
   * Whether to open a connection: somebody is there, as one small request tells. As long as there is nobody it waits,
   * longer each time, and tries that request alone, but now and then a connection.
   * @param {Outcome} [outcome] of a connection that nobody answered
   */
  async #isThere(outcome) {
    let found = { why: "unreachable" };
    const began = Date.now();
    if (this.#mayKnock()) {
      if (this.#away && ++this.#away.tries % LEG_EVERY === 0) {
        this.#config ??= {};
        this.#away.knockedAt = this.health.knocks();
        return true;
      }
      found = await this.#knock();
      if (this.#closed) return false;
    } else if (this.health.isThere) found = { config: configs.get(this.base)?.config ?? this.#config ?? {} };
    if (!found.config) {
      await this.#stayAway({ end: outcome?.end, ...found }, since(began));
      return false;
    }
    this.#config = found.config;
    const { heartbeatSeconds } = found.config;
    if (heartbeatSeconds >= 0.1 && heartbeatSeconds <= 3_600) this.heartbeatSeconds = heartbeatSeconds;
    this.isAnswered();
    return true;
  }

  /** While nobody answers, one line's knock is all lines' knock, also for whoever is told to try at once. */
  #mayKnock() {
    if (!this.#away || this.#away.knockedAt === this.health.knockedAt) return true;
    return since(this.health.knockedAt) >= Math.min(KNOCK_GAP_MS, this.#longestAway());
  }

  /** @returns {Promise<{config?: object, why?: string, error?: GatewayError}>} */
  async #knock() {
    this.#report("connecting", {});
    if (this.#closed) return {};
    const kept = configs.get(this.base);
    if (!this.#away && !this.#config && kept && since(kept.at) < 60_000) return kept;
    const knockedAt = this.health.knocks();
    if (this.#away) this.#away.knockedAt = knockedAt;
    try {
      return { config: await configOf(this, Math.max(this.timing.configMs, this.#delayAway())) };
    } catch (error) {
      return error instanceof GatewayError ? { error } : { why: whyNot(error) };
    }
  }

  /** Nobody answered: waits, between half of a delay that doubles and all of it, less what was waited for an answer. */
  async #stayAway(outcome, waitedMs = 0) {
    this.#offline = globalThis.navigator?.onLine === false;
    this.#away ??= { spentMs: 0, knockedAt: this.health.knockedAt, tries: 0, delays: 0, refusals: 0 };
    if (outcome.error?.code === "forbidden_origin" && ++this.#away.refusals >= REFUSALS) throw outcome.error;
    if (this.question && this.#away.spentMs >= this.timing.asks * this.#longestAway()) throw unreachable(outcome);
    const ms = (this.#delayAway() * (1 + this.random())) / 2;
    const delayMs = Math.max(ms - waitedMs, Math.min(ms, AWAY_MS.first / 2));
    this.#away.delays++;
    const began = Date.now();
    const forget = this.health.whenAnswered(() => this.#wake?.());
    await this.#pause(delayMs, 0, outcome);
    forget();
    // A machine that slept meanwhile has waited for nobody.
    if (this.#away) this.#away.spentMs += Math.min(since(began), delayMs) + Math.min(waitedMs, this.timing.requestMs);
  }

  #delayAway() { return Math.min(AWAY_MS.first * 2 ** (this.#away?.delays ?? 0), this.#longestAway()); }

  #longestAway() { return Math.min(AWAY_MS.longest, this.timing.backoffMaxMs); }

  /** Somebody is there, whichever way that was found out. */
  isAnswered() {
    this.#offline = false;
    if (!this.#away) return;
    this.#away = undefined;
    this.health.answered();
  }

  /** Ends a pause, but none that the gateway asked for; the next ones are short again. */
  retryNow() {
    if (this.#away) [this.#away.delays, this.#away.knockedAt] = [0, undefined];
    this.#wake?.();
  }

  #choose() {
    const usable = this.#usable();
    const trusted = usable.find((name) => this.health.trusted(name));
    return trusted ?? usable.reduce((best, name) => (this.health.banned(name) < this.health.banned(best) ? name : best));
  }

  /** Opens one connection and reads it to its end. @returns {Promise<Outcome>} */
  async #ride(name) {
    const abort = (this.#leg = new AbortController());
    const began = Date.now();
    this.#seated = name !== "websocket";
    if (this.#seated) this.health.seats++;
    const leg = {
      line: this,
      signal: abort.signal,
      opened: false,
      answered: false,
      progressed: false,
      /** Somebody answered; a proxy's 5xx says that there is nobody behind it. */
      heard: (status = 200) => {
        if (status >= 500) return;
        leg.answered = true;
        this.isAnswered();
      },
      open: () => {
        if (leg.opened || abort.signal.aborted) return;
        leg.opened = true;
        this.#report("open", { transport: name });
        this.#planHealing(name);
      },
      deliver: (event, id) => {
        if (abort.signal.aborted) return false;
        const isNew = this.#deliver(event, id);
        if (isNew && event.event !== "reset") leg.progressed = leg.given = true;
        return this.#last !== null;
      },
    };
    const outcome = await this.#read(name, leg);
    const interrupted = abort.signal.aborted;
    abort.abort(); // whatever the leg left open goes with it
    clearTimeout(this.#healTimer);
    if (this.#seated) this.health.seats--;
    this.#seated = false;
    const lasted = leg.opened && outcome.end !== "buffered" && since(began) > 10_000;
    if (lasted || outcome.end === "finished") this.health.clear(name);
    if (lasted || leg.progressed) this.#attempt = 0;
    if (leg.progressed || (leg.opened && since(began) > 1_000)) this.#refusals = 0;
    return interrupted ? { end: "interrupted" } : { ...outcome, progressed: leg.progressed, answered: leg.answered };
  }

  /** @returns {Promise<Outcome>} never rejects */
  async #read(name, leg) {
    try {
      return (this.question && name !== "sse" && (await this.#ask(leg))) || (await LEGS[name](leg));
    } catch (error) {
      if (error instanceof GatewayError) return verdict(error);
      return { end: leg.opened ? "broke" : "refused", fault: "network", why: leg.opened ? String(error?.message ?? error) : whyNot(error) };
    }
  }

  async #decide(name, outcome) {
    if (this.#last || outcome.end === "finished") return this.#conclude();
    switch (outcome.end) {
      case "interrupted":
        return;
      case "fatal":
        if (outcome.error.code === "unauthorized" && typeof this.options.token === "function" && this.#refusals < RENEWALS) {
          // A fresh token is asked for at once; a clock that is slow gives the old one for a while yet.
          const again = since(this.#renewedAt) < 5_000;
          this.#renewedAt = Date.now();
          if (!this.#refusals++ && !again) return undefined;
          return this.#pause(Math.min(1_000 * 2 ** Math.max(this.#refusals - 2, 0), this.timing.backoffMaxMs), 0.1, outcome);
        }
        if (outcome.error.code === "streaming_disabled" && this.#config.streaming !== false) {
          this.#config = { ...this.#config, streaming: false };
          if (this.#disabled++) return this.#pause(this.#jitter(), 0, outcome); // and otherwise in between
          return undefined;
        }
        return this.#finish(outcome.error);
      case "told": { // the gateway has spread this delay already; a tenth more keeps clones apart
        const advised = outcome.delayMs ?? this.#advised() * (0.5 + this.random());
        if (outcome.progressed) return this.#pause(advised, 0.1, outcome, true);
        // Told so each time and given nothing: perhaps somebody on the way ends what has just begun.
        if (this.#keepsBreaking()) this.health.blame(name, "own", this.timing);
        this.#countAsk(outcome);
        return this.#pause(Math.max(advised, this.#jitter()), 0.1, outcome, true);
      }
      case "busy":
        this.#countAsk(outcome);
        return this.#pause(Math.max(Math.min(outcome.error.retryAfterMs ?? 0, 300_000), this.#jitter()), 0.1, outcome, true);
      case "broke":
        if (this.#keepsBreaking()) this.health.blame(name, "own", this.timing);
        this.#countAsk(outcome);
        return this.#pause(this.#jitter(), 0, outcome);
      default: { // refused, buffered
        if (!outcome.answered && !isGateways(outcome.error)) {
          if (this.#away) return this.#stayAway(outcome);
          if (!(await this.#isThere(outcome))) return undefined; // only where somebody is there, another transport may fare better
        }
        this.health.blame(name, outcome.fault ?? "own", this.timing);
        const usable = this.#usable();
        if (usable.some((other) => this.health.trusted(other))) return;
        this.health.forgive(usable);
        if (outcome.end === "buffered") this.#patience = Math.min(this.#patience * 2, 16); // no better one: give it time
        this.#countAsk(outcome);
        return this.#pause(this.#jitter(), 0, outcome);
      }
    }
  }

  /** A question that was never taken must not be sent for ever: somebody waits for `done`. */
  #countAsk({ error, why }) {
    if (this.question && ++this.question.asks >= this.timing.asks && !this.#closed) throw unreachable({ error, why });
  }

  #keepsBreaking() {
    this.#breaks = [...this.#breaks.filter((at) => since(at) < 60_000), Date.now()];
    if (this.#breaks.length < 4) return false;
    this.#breaks = [];
    return true;
  }

  #advised() { return this.#retryMs ?? boundedDelay(this.#config.retryMs ?? 2_000); }

  /** Full jitter: anything from 0 to the doubled delay, so that a crowd cut at once comes back spread. */
  #jitter() {
    const ceiling = Math.min(this.#advised() * 2 ** this.#attempt++, this.timing.backoffMaxMs);
    return this.random() * ceiling;
  }

  async #pause(ms, spread, { why, error, end }, firm = false) {
    const delayMs = Math.round(ms * (1 + spread * this.random()));
    const reason = why ?? error?.code ?? end;
    if (firm) this.#held = { at: Date.now(), delayMs, reason };
    this.#report("waiting", { transport: this.transport, delayMs, reason, ...(firm && { asked: true }) });
    if (!(await this.#sleep(delayMs, firm))) this.#held = undefined;
  }

  /** What the gateway asked for counts on, whatever woke the line meanwhile: a tab that was hidden, another wish. */
  async #goOnWaiting() {
    const { at, delayMs, reason } = this.#held;
    const left = delayMs - since(at);
    if (left > 0) this.#report("waiting", { transport: this.transport, delayMs: left, reason, asked: true });
    if (!(await this.#sleep(left, true))) this.#held = undefined;
  }

  /** @returns whether it ended early */
  #sleep(ms, firm = false) {
    if (this.#closed) return Promise.resolve(true); // by who was told that it would be slept
    return new Promise((resolve) => {
      const timer = ms === Infinity ? undefined : setTimeout(resolve, ms, false);
      this.#wake = (byForce = false) => {
        if (firm && !byForce) return;
        clearTimeout(timer);
        resolve(true);
      };
    }).finally(() => { this.#wake = null; });
  }

  retry(ms) { this.#retryMs = boundedDelay(ms); }

  // -- events

  #give(event) { if (!this.#closed) call(this.options.onEvent, event); }

  /** @returns whether it is given: not when it was given before */
  #deliver(event, id = event.id) {
    if (event.event === "reset") this.#seen.clear();
    else if (id !== undefined && this.#seen.has(id)) return false;
    if (id !== undefined) {
      this.#seen.add(id);
      if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.values().next().value);
      this.position = id;
    }
    if (this.question && event.turnId && event.event !== "notice") this.accept(event.turnId, event.conversationId);
    if (!this.conversationId && typeof event.conversationId === "string") this.conversationId = event.conversationId;
    const ours = this.question || (this.turnId && (event.turnId ?? this.turnId) === this.turnId);
    if (ours && LAST.has(event.event)) this.#last = event;
    this.#give(event);
    return true;
  }

  /** The gateway has taken the question: from here on it is one turn to listen to. */
  accept(turnId, conversationId) {
    if (typeof conversationId === "string" && conversationId) this.conversationId = conversationId;
    if (typeof turnId !== "string" || !turnId || this.turnId) return;
    this.turnId = turnId;
    this.scope = `turns/${turnId}`;
    this.question = undefined;
    this.#held = undefined;
    if (this.#leaves && this.transport !== this.liking[0]) this.#leg?.abort();
    this.#leaves = false;
  }

  /** The line's turn is over. When its last event was not seen here, the turn's record says how it ended. */
  async #conclude() {
    if (!this.#last && this.turnId) {
      const turn = await this.#json(turnPath(this.turnId)).catch((error) => {
        if (error instanceof GatewayError && verdict(error).end === "fatal") throw error;
        return { status: "unknown" };
      });
      if (!OVER.has(turn.status)) {
        return this.#pause(this.#jitter(), 0, { why: `the turn is ${turn.status}` });
      }
      return this.#emitWhole(turn, { lastOnly: true });
    }
    return this.#finish();
  }

  /** Gives a last event that no connection brought. */
  #end(last) {
    if (this.#closed) return;
    this.#last = last;
    this.#give(last);
    this.#finish();
  }

  #finish(error) {
    if (this.#closed) return;
    this.#closed = true;
    this.#release();
    this.#report("closed", error && error.name !== "AbortError" ? { error } : {});
    this.onEnd(this.#last, this.#last ? undefined : error);
  }

  close() {
    this.#finish(new DOMException("The line was closed; the turn goes on.", "AbortError"));
  }

  prefer(transports) {
    this.#likes(transports);
    for (const name of this.liking.slice(0, 1)) this.health.clear(name);
    if (this.transport !== this.liking[0]) this.#interrupt();
  }

  #interrupt() {
    if (this.question) this.#leaves = true; // once it is there: its first connection must not be cut
    else this.#leg?.abort();
    this.#wake?.(true);
  }

  #release() {
    clearTimeout(this.#quietTimer);
    clearTimeout(this.#healTimer);
    for (const stop of this.#unlisten) stop();
    this.#life.abort();
    this.#leg?.abort();
    this.#wake?.(true);
  }

  #report(state, detail) {
    if (this.#closed && state !== "closed") return;
    this.state = state;
    call(this.options.onState, state, { position: this.position, ...detail });
  }

  // -- the tab

  #listenToTheTab() {
    const on = (target, type, listener) => {
      if (typeof target?.addEventListener !== "function") return;
      target.addEventListener(type, listener);
      this.#unlisten.push(() => target.removeEventListener(type, listener));
    };
    const page = globalThis.document;
    const visibility = () => {
      clearTimeout(this.#quietTimer);
      if (page.visibilityState !== "hidden") {
        this.#quiet = false;
        this.retryNow();
      } else {
        this.#quietTimer = setTimeout(hush, this.timing.quietAfterMs);
      }
    };
    const hush = () => {
      // A question on its way must arrive first, and who asked for "cancel" on leaving does not mean a hidden tab.
      if (this.options.onDisconnect === "cancel") return;
      if (this.question) this.#quietTimer = setTimeout(hush, this.timing.quietAfterMs);
      else {
        this.#quiet = true;
        this.#interrupt();
      }
    };
    on(page, "visibilitychange", visibility);
    if (page?.visibilityState === "hidden") visibility();
    on(globalThis, "offline", () => { this.#leg?.abort(); this.#wake?.(); }); // a page's, or a worker's
    on(globalThis, "online", () => this.retryNow());
  }

  async #presence() {
    while (this.#quiet && !this.#closed) {
      this.#report("waiting", { reason: "hidden" });
      await this.#sleep(Infinity);
    }
    if (this.#offline && globalThis.navigator?.onLine === false && !this.#closed) {
      this.#report("offline", {});
      await this.#sleep(30_000); // one try now and then
    }
  }

  // -- going back to a better transport

  #planHealing(name) {
    const usable = this.#usable();
    const better = usable.includes(name) ? usable.slice(0, usable.indexOf(name)) : usable;
    if (!better.length) return;
    const ms = Math.min(...better.map((other) => this.health.banned(other)));
    clearTimeout(this.#healTimer);
    this.#healTimer = setTimeout(() => this.#heal(name, better), ms + 50);
  }

  /** Tries a better transport on a throw-away connection while the present one keeps delivering. */
  async #heal(name, better) {
    const leg = this.#leg;
    const candidate = better.find((other) => !this.health.banned(other));
    const works = candidate !== undefined && (await probe(this, candidate, leg.signal));
    if (leg.signal.aborted || this.#closed) return;
    if (works) {
      this.health.prove(candidate);
      this.#interrupt();
    } else {
      if (candidate) this.health.blame(candidate, "own", this.timing);
      this.#planHealing(name);
    }
  }

  // -- plain requests

  url(path, query = {}) {
    const url = new URL(this.base + path);
    for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, String(value));
    return url;
  }

  /** Where the scope's routes are. An id may hold whatever an address may not. */
  get path() {
    const [kind] = this.scope.split("/", 1);
    return `/api/coze/${kind}/${encodeURIComponent(this.scope.slice(kind.length + 1))}`;
  }

  firstByteMs() { return this.timing.firstByteMs * this.#patience; }

  /** Two heartbeats that did not come, in milliseconds. */
  silenceMs() { return this.heartbeatSeconds * 2_000 + 5_000; }

  /** The bearer token. A function that gives none counts as unreachable after a while, and ends with `signal`. */
  async token(signal, ms = this.timing.requestMs) {
    const { token } = this.options;
    if (typeof token !== "function") return token;
    const given = (async () => token())().catch((error) => { // else its own server's fault would pass for the gateway's
      throw new Error(`token() failed: ${error?.message ?? error}`, { cause: error });
    });
    return within(ms, signal, given, "token()");
  }

  async headers(extra, signal, ms) {
    const headers = { ...extra };
    const token = await this.token(signal, ms);
    if (token) headers.Authorization = `Bearer ${tokenValue(token)}`;
    if (this.options.language) headers["Accept-Language"] = this.options.language;
    return headers;
  }

  /** A position as a header, which survives any query-rewriting proxy; "0" is no position of a log but a wish. */
  resume() {
    return this.position === undefined || this.position === "0" ? {} : { "Last-Event-ID": this.position };
  }

  /**
   * One request with its whole answer. It ends with the line unless it has a signal of its own, or `null` for none.
   * `asks` says that it is the question, `bare` that it goes without a token.
   */
  async request(path, { query, timeoutMs = this.timing.requestMs, signal = this.#life.signal, headers, asks, bare, ...init } = {}) {
    const given = bare ? {} : await this.headers(headers, signal, Math.min(timeoutMs, this.timing.requestMs));
    const abort = new AbortController();
    const stop = watchSignal(signal, () => abort.abort());
    const timer = setTimeout(() => abort.abort(new DOMException(`no answer within ${timeoutMs} ms`, "AbortError")), timeoutMs);
    const exchange = async () => {
      const response = await this.fetch(this.url(path, query), {
        cache: "no-store", ...init, headers: given, signal: abort.signal,
      });
      return { response, text: await textOf(response) };
    };
    try {
      return await (asks ? this.sending(exchange) : exchange());
    } finally {
      clearTimeout(timer);
      stop();
    }
  }

  async #json(path, options) {
    const { response, text } = await this.request(path, options);
    const body = response.ok ? parseObject(text) : undefined;
    if (!body) throw problem(response, text);
    return body;
  }

  /** Whether more events are sure to come: a turn that has begun, and is not over. */
  get isRunning() { return this.turnId !== undefined && this.scope === `turns/${this.turnId}`; }

  #isNowhere() { return !this.question && !this.scope.startsWith("turns/") && this.position === undefined; }

  /**
   * A line that begins "now" first learns where now is: else what happens before its first event would be lost when its
   * connection breaks. Where that can't be learnt it listens all the same, and asks again before its next connection.
   * @returns whether to open one now
   */
  async #prime() {
    const began = Date.now();
    try {
      const { events, next } = await this.#json(`${this.path}/poll`, { query: { wait: 0 }, timeoutMs: this.timing.configMs });
      this.isAnswered();
      for (const event of events) if (isEvent(event)) this.#deliver(event);
      if (isPosition(next)) this.position = next;
      return true;
    } catch (error) {
      if (this.#closed) return false;
      const outcome = error instanceof GatewayError ? verdict(error) : { end: "refused", why: whyNot(error) };
      if (outcome.end === "refused" && !this.#away && (++this.#primes >= 3 || since(began) >= this.timing.configMs)) return true;
      await this.#decideAlone(outcome);
      return false;
    }
  }

  /**
   * Sends the question, and knows until it is answered that the gateway may have it. A connection that failed almost
   * always failed before the question was there; one that was given up, by a deadline or a stop, says nothing.
   */
  async sending(send) {
    const { question } = this;
    question.underway = true;
    try {
      const answer = await send();
      question.underway = false;
      return answer;
    } catch (error) {
      if (error?.name !== "AbortError") question.underway = false;
      throw error;
    }
  }

  /** Sends the question for one answer: its turn's, or after `wait` seconds the turn's state. */
  #put(wait, options) {
    const { text, key } = this.question;
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key, Prefer: `wait=${wait}` };
    return this.request("/api/coze/chat", { method: "POST", headers, body: text, asks: true, ...options });
  }

  /** Sends the question without waiting for its answer. @returns {Promise<Outcome|undefined>} nothing when it was taken */
  async #ask(leg) {
    const { response, text } = await this.#put(0, { signal: leg.signal });
    leg.heard?.(response.status);
    if (!response.ok) return verdict(problem(response, text));
    this.#taken(response, text);
    return undefined;
  }

  #taken(response, text) {
    const body = parseObject(text);
    if (typeof body?.turnId !== "string") throw stranger(response);
    this.accept(body.turnId, body.conversationId);
    return body;
  }

  /** The older way: one request, one whole answer. Slow answers are asked for again, under the same key. */
  async #askWhole() {
    const { body } = this.question;
    this.transport = undefined;
    this.#report("connecting", { reason: "whole answer" });
    if (this.#closed) return;
    const abort = (this.#leg = new AbortController());
    try {
      const { response, text } = await this.#put(50, { timeoutMs: 900_000, signal: abort.signal });
      if (this.#closed) return;
      if (response.status < 500) this.isAnswered();
      if (response.ok) this.#report("open", { reason: "whole answer" });
      if (!response.ok) {
        const error = problem(response, text);
        const turnId = textOr(error.problem?.turnId);
        if (turnId || error.code.startsWith("upstream_")) return await this.#failWhole(error, turnId, body.message);
        this.accept(response.headers.get("X-Turn-Id"), response.headers.get("X-Conversation-Id")); // it goes on
        return await this.#decideAlone(verdict(error));
      }
      const answer = this.#taken(response, text);
      if (!OVER.has(answer.status)) return; // still running, or waiting for tools: a turn to listen to, by long-poll
      this.#emitWhole({ ...answer, input: body.message });
    } catch (error) {
      if (abort.signal.aborted || this.#closed) return;
      await this.#decideAlone(error instanceof GatewayError ? verdict(error) : { end: "refused", why: whyNot(error) });
    }
  }

  /** For a request that no other transport can stand in for: what is not final is tried again. */
  async #decideAlone(outcome) {
    if (outcome.end !== "refused") return this.#decide("longpoll", outcome);
    if (!outcome.error || (outcome.error.status >= 500 && !isGateways(outcome.error))) {
      if (this.#away) return this.#stayAway(outcome);
      if (!(await this.#isThere(outcome))) return undefined;
    }
    this.#countAsk(outcome);
    return this.#pause(this.#jitter(), 0, outcome);
  }

  /** The gateway took the question and the answer failed: its problem is the last event, its record has what there was. */
  async #failWhole({ message, code, problem }, turnId, input) {
    const { retryable = false, upstream, conversationId, content } = problem ?? {};
    this.accept(turnId, conversationId);
    const record = turnId && content === undefined ? await this.#json(turnPath(turnId)).catch(() => undefined) : undefined;
    const error = { error: message, code, retryable, ...(upstream ? { upstream } : {}) };
    this.#emitWhole({ ...record, input, error, status: "failed", content: content ?? record?.content, turnId }, { lastOnly: !turnId });
  }

  /** Gives a whole turn that is over as the events that it would have been. They have no ids; the turn's end has one. */
  #emitWhole(turn, { lastOnly = false } = {}) {
    if (isPosition(turn.position)) this.position = turn.position;
    const { status, conversationId = this.conversationId, turnId = this.turnId } = turn;
    const content = textOr(turn.content, "");
    const suggestions = Array.isArray(turn.suggestions) ? turn.suggestions : [];
    if (!lastOnly) {
      this.#give({ event: "started", conversationId, turnId, input: turn.input });
      if (textOr(turn.reasoning)) this.#give({ event: "reasoning", content: turn.reasoning });
      if (content) this.#give({ event: "message", content });
      for (const suggestion of suggestions) if (textOr(suggestion)) this.#give({ event: "suggestion", content: suggestion });
    }
    const ids = { conversationId, turnId, content };
    if (status === "cancelled") this.#end({ event: "cancelled", ...ids });
    else if (status === "failed") {
      const error = typeof turn.error === "object" && !Array.isArray(turn.error) ? turn.error : {};
      this.#end({ event: "error", error: "", code: "internal", retryable: false, ...error, ...ids });
    } else {
      const recovered = turn.recovered === undefined ? {} : { recovered: turn.recovered }; // a whole answer does not tell
      this.#end({ event: "completed", ...ids, usage: turn.usage ?? null, ...recovered });
    }
  }

  /**
   * Ends a question that is not known to be taken. One on its way may get there yet: asked once more, under its key,
   * for its turn alone, it is found and can be cancelled, by a gateway that answers soon before the user hears of the
   * end, by any other behind the user's back.
   */
  async #takeBack() {
    const found = this.question.underway ? this.#ask({ signal: null }).catch(() => {}) : undefined;
    let timer;
    const soon = new Promise((resolve) => { timer = setTimeout(resolve, this.timing.stopMs); });
    if (found) await (this.#stopping = Promise.race([found, soon]));
    clearTimeout(timer);
    if (this.turnId) this.#wake?.(true);
    else if (!this.#closed) this.#end({ event: "cancelled", conversationId: this.conversationId, turnId: undefined, content: "" });
    await found;
  }

  /** Stops the turn itself, or takes the question back. Resolves when the gateway has heard it, or needs not. */
  async cancel() {
    this.#quiet = false; // whoever stops it wants to know how it ended, also in a hidden tab
    this.#wake?.();
    if (this.question) await this.#takeBack(); // behind close(), too: it may be on its way
    for (let attempt = 0; this.turnId && !this.#isOver(); attempt++) { // without a turn, the gateway never took the question
      let why;
      try {
        const { response, text } = await this.request(`${turnPath(this.turnId)}/cancel`, { method: "POST", signal: null });
        if (response.ok) return;
        why = problem(response, text);
      } catch (error) {
        why = error;
      }
      const final = why instanceof GatewayError && verdict(why).end === "fatal";
      if (final || attempt + 1 >= TRIES) throw why;
      await this.#unlessOver(Math.max(Math.min(why.retryAfterMs ?? 0, 300_000), this.random() * 1_000 * 2 ** attempt));
    }
  }

  /** Whether the turn's last event was given. A question that was taken back ended without its turn. */
  #isOver() { return this.#last?.turnId !== undefined; }

  #unlessOver(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      watchSignal(this.#life.signal, () => {
        if (!this.#isOver()) return;
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Legs: each reads one connection to its end and says how it ended.

/**
 * @typedef {object} Outcome
 * @property {"finished"|"told"|"busy"|"broke"|"refused"|"buffered"|"fatal"|"interrupted"} end
 * @property {number} [delayMs] what the gateway asked for
 * @property {"network"|"own"} [fault]
 * @property {string} [why]
 * @property {GatewayError} [error]
 */

const LEGS = { sse: readSse, websocket: readWebSocket, longpoll: readPoll, eventsource: readEventSource };

/** @returns {Promise<Outcome>} */
async function readSse(leg) {
  const { line } = leg;
  const headers = await sseHeaders(line, leg.signal);
  const abort = new AbortController();
  const stop = watchSignal(leg.signal, () => abort.abort());
  const watch = watchSilence(leg, line.silenceMs(), () => abort.abort());
  let told; // the last `retry:` of this connection
  const began = Date.now();
  let answered = false; // a head came: whatever breaks now is the network, not a refusal
  let damaged = false;
  let over = false;
  let timeIsUp = false;
  const parser = new EventStreamParser({
    onRetry: (ms) => line.retry((told = boundedDelay(ms))),
    onEvent: (data, id, type) => {
      if (over || damaged || type !== "message") return;
      const event = parseEvent(data, id);
      told = undefined; // an advice before the last event was for a rainy day, not "go now"
      if (!event) damaged = true; // somebody on the way broke it: ask again from the last good position
      else over = leg.deliver(event, event.id ?? id);
    },
    onComment: (text) => { timeIsUp ||= text === "unauthorized" && Boolean(line.options.token); },
    onId: (id) => { if (isPosition(id)) line.position = id; },
  });
  try {
    const response = await openSse(line, headers, abort.signal);
    leg.heard(response.status);
    if (response.status === 204 && line.isRunning) return { end: "finished" };
    if (!response.ok) return verdict(problem(response, await textOf(response)));
    if (!streams(response)) return { end: "refused", why: "no event stream", error: stranger(response) };
    answered = true;
    line.accept(response.headers.get("X-Turn-Id"), response.headers.get("X-Conversation-Id"));
    const reader = response.body.getReader();
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      watch.heard();
      leg.open();
      parser.push(decoder.decode(value, { stream: true }));
      if (over) return { end: "finished" };
      if (damaged) return { end: "broke", why: "damaged" };
    }
    if (timeIsUp) return expired();
    return told === undefined ? { end: "broke", why: "ended early" } : { end: "told", delayMs: told, why: "told to come back" };
  } catch (error) {
    if (watch.silent) return silence(watch);
    if (answered && !leg.signal.aborted) {
      // A head, then a good while of nothing, then a break: more likely held back than unlucky.
      const held = !leg.opened && since(began) > line.firstByteMs() / 3;
      return { end: held ? "buffered" : "broke", why: String(error?.message ?? error) };
    }
    throw error;
  } finally {
    watch.stop();
    stop();
    abort.abort();
  }
}

/** @returns {Outcome} */
function expired() {
  return { end: "fatal", error: new GatewayError("The token is no longer valid.", { status: 401, code: "unauthorized" }) };
}

/** Heartbeats that don't come are held back, too, if they are not lost: another transport fares better either way. */
function silence({ silent }) {
  return { end: "buffered", why: silent };
}

/**
 * Asks beside a quiet leg whether there is more than it brings. Then somebody holds it back, or it is dead.
 * @returns {Promise<boolean>}
 */
async function isHeldBack(leg) {
  const { line } = leg;
  const { position } = line;
  try {
    if (!(await pollOnce(leg, 0, 1)).events.length) return false;
    await new Promise((resolve) => { setTimeout(resolve, line.firstByteMs() / 3); }); // it may be on its way
    return line.position === position;
  } catch {
    return false;
  }
}

/** Made before any deadline begins to run: a token may take its time. */
function sseHeaders(line, signal) {
  const asks = line.question && { "Content-Type": "application/json", "Idempotency-Key": line.question.key };
  return line.headers({ Accept: "text/event-stream", ...asks, ...line.resume() }, signal);
}

function openSse(line, headers, signal) {
  const how = { headers, signal, cache: "no-store" };
  if (!line.question) return line.fetch(line.url(`${line.path}/events`, { after: line.position === "0" ? "0" : undefined }), how);
  const body = line.question.text;
  return line.sending(() => line.fetch(line.url("/api/coze/chat/stream"), { ...how, method: "POST", body }));
}

async function socketUrl(line, signal) {
  const url = line.url(`${line.path}/ws`, { after: line.position, access_token: await line.token(signal) });
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

/** @returns {Promise<Outcome>} */
async function readWebSocket(leg) {
  const { line } = leg;
  const url = await socketUrl(line, leg.signal);
  if (leg.signal.aborted) return { end: "interrupted" };
  return new Promise((resolve) => {
    const socket = new line.WebSocket(url);
    let outcome; // set when we are the ones who end it
    let hangUp;
    const end = (how) => {
      outcome ??= how;
      watch.stop();
      clearInterval(pings);
      stop();
      try { socket.close(); } catch { /* still connecting in some implementations: it closes by itself */ }
      // The package ws waits half a minute for a peer that is gone, and keeps its process that long.
      if (socket.terminate && socket.readyState !== 3) hangUp = setTimeout(() => socket.terminate(), 1_000);
      resolve(outcome);
    };
    const watch = watchSilence(leg, line.silenceMs(), () => end(silence(watch)));
    const ping = () => { if (socket.readyState === 1) socket.send('{"type":"ping"}'); };
    const pings = setInterval(ping, line.heartbeatSeconds * 1_000); // a script cannot see ping frames
    const stop = watchSignal(leg.signal, () => end({ end: "interrupted" }));
    socket.onopen = () => { leg.heard(); ping(); }; // a handshake alone proves nothing about what comes after it
    socket.onmessage = ({ data }) => {
      if (outcome) return;
      watch.heard();
      leg.open();
      const said = parseObject(data);
      if (!said || (said.event !== undefined && !isEvent(said))) return end({ end: "broke", why: "damaged" });
      if (said.event && leg.deliver(said)) end({ end: "finished" });
      return undefined;
    };
    socket.onerror = () => setTimeout(() => end(refusal(1006)), 0); // some runtimes forget the close event after it
    socket.onclose = ({ code }) => {
      clearTimeout(hangUp);
      end(refusal(code));
    };
    const refusal = (code) => {
      if (code === 1008 && line.options.token) return expired();
      if (code === 1008) return { end: "refused", fault: "own", why: "closed with 1008" }; // perhaps a cookie's time is up
      if (code === 1012 || code === 1013) return { end: "told", why: `closed with ${code}` };
      if (code === 1000 && line.scope.startsWith("turns/") && leg.opened) return { end: "finished" };
      if (leg.opened) return { end: "broke", why: `closed with ${code}` };
      return { end: "refused", fault: "network", why: "handshake refused" };
    };
  }).then((outcome) => (outcome.end === "refused" ? explain(leg, outcome) : outcome));
}

/**
 * A browser hides why a handshake or an `EventSource` failed: a plain request tells whether to give up, and whether the
 * turn is over, as an `EventSource` that was told 204 can't say. What it brings is given: where nothing else gets
 * through, the answer arrives all the same, a try at a time.
 */
async function explain(leg, outcome) {
  try {
    const answer = await pollOnce(leg, 0);
    if (answer.events.length) leg.line.transport = "longpoll"; // that is how they came
    return give(leg, answer) ?? { ...outcome, fault: "own" };
  } catch (error) {
    const reason = error instanceof GatewayError ? verdict(error) : outcome;
    return reason.end === "refused" ? outcome : reason;
  }
}

/** One long-poll's answer: `{events, next, ended}`. Rejects with a `GatewayError` when it is another. */
async function pollOnce({ line, signal, heard }, wait, limit) {
  const { response, text } = await line.request(`${line.path}/poll`, {
    query: { after: line.position, wait, limit }, timeoutMs: wait * 1_000 + 10_000, signal,
  });
  heard(response.status);
  if (!response.ok) throw problem(response, text);
  const answer = parseObject(text);
  if (!Array.isArray(answer?.events) || !answer.events.every((event) => isEvent(event))) throw stranger(response);
  return answer;
}

/** Gives what a long-poll brought. @returns {Outcome|undefined} how the leg ends by it */
function give(leg, { events, next, ended }) {
  for (const event of events) if (leg.deliver(event)) return { end: "finished" };
  if (leg.signal.aborted) return { end: "interrupted" };
  if (isPosition(next)) leg.line.position = next;
  return ended && leg.line.isRunning ? { end: "finished" } : undefined;
}

/** @returns {Promise<Outcome>} */
async function readPoll(leg) {
  const { line } = leg;
  for (let wait = 0; ; wait = line.timing.pollSeconds) {
    const began = Date.now();
    const answer = await pollOnce(leg, wait);
    leg.open();
    leg.given = false;
    const outcome = give(leg, answer);
    if (outcome) return outcome;
    const took = since(began);
    if (wait && !leg.given && took < 500) return { end: "told", why: "answered at once" }; // it is draining
    if (took < line.timing.pollGapMs) await new Promise((resolve) => { setTimeout(resolve, line.timing.pollGapMs - took); });
    if (leg.signal.aborted) return { end: "interrupted" };
  }
}

/** @returns {Promise<Outcome>} */
async function readEventSource(leg) {
  const { line } = leg;
  const fresh = line.position === undefined && line.scope.startsWith("turns/"); // then `started` must come at once
  const url = line.url(`${line.path}/events`, { lastEventId: line.position, access_token: await line.token(leg.signal) });
  if (leg.signal.aborted) return { end: "interrupted" };
  return new Promise((resolve) => {
    const source = new line.EventSource(url.href);
    let ended = false;
    const end = (outcome) => {
      ended = true;
      watch.stop();
      stop();
      source.close();
      resolve(outcome);
    };
    const watch = watchSilence(leg, Infinity, () => end(silence(watch))); // a script cannot see comments, so nor heartbeats
    const stop = watchSignal(leg.signal, () => end({ end: "interrupted" }));
    const alive = () => { watch.heard(); leg.open(); };
    source.onopen = () => {
      leg.heard();
      if (!fresh) alive();
    };
    source.onmessage = ({ data, lastEventId }) => {
      if (ended) return;
      alive();
      const event = parseEvent(data, lastEventId || undefined);
      if (!event) end({ end: "broke", why: "damaged" });
      else if (leg.deliver(event, event.id ?? (lastEventId || undefined))) end({ end: "finished" });
    };
    // It would come back by itself, but at its own pace, for ever, and without a word when nobody answers.
    source.onerror = () => end({ end: leg.opened ? "broke" : "refused", fault: "network", why: "event source failed" });
  }).then((outcome) => (outcome.end === "refused" || outcome.end === "broke" ? explain(leg, outcome) : outcome));
}

/** Whether `name` would deliver now: opens it beside the present connection, waits for a first sign, closes it. */
async function probe(line, name, signal) {
  if (name === "longpoll") return true;
  const abort = new AbortController();
  const stop = watchSignal(signal, () => abort.abort());
  const timer = setTimeout(() => abort.abort(), line.firstByteMs());
  try {
    if (name === "websocket") return await probeWebSocket(line, abort.signal);
    const response = await openSse(line, await sseHeaders(line, abort.signal), abort.signal);
    if (response.status === 204) return true;
    if (!response.ok || !streams(response)) return false;
    const reader = response.body.getReader();
    if ((await reader.read()).done) return false;
    return await staysOpen(reader);
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
    stop();
    abort.abort();
  }
}

/** A proxy that buffers lets go of everything when the answer ends: that, too, is a first byte, and proves nothing. */
async function staysOpen(reader) {
  let ended = false;
  const drain = (async () => { while (!(await reader.read()).done); ended = true; })();
  await Promise.race([drain.catch(() => { ended = true; }), new Promise((resolve) => { setTimeout(resolve, 150); })]);
  return !ended;
}

async function probeWebSocket(line, signal) {
  const url = await socketUrl(line, signal);
  return new Promise((resolve) => {
    const socket = new line.WebSocket(url);
    const end = (works) => { socket.close(); resolve(works); };
    socket.onopen = () => socket.send('{"type":"ping"}');
    socket.onmessage = () => end(true);
    socket.onclose = () => resolve(false);
    socket.onerror = () => resolve(false); // some runtimes throw an error that nobody listens to
    watchSignal(signal, () => end(false));
  });
}

// ---------------------------------------------------------------------------------------------------------------------

const configs = new Map();

/**
 * What the gateway says it can, which is good for a minute; `{}` from one that doesn't say. The request has no header of
 * ours, so a browser asks no leave before it, and a gateway that refuses this page's origin can say so.
 * Rejects when nobody answers, or a proxy that has nobody behind it, or with `forbidden_origin`.
 */
async function configOf(line, timeoutMs) {
  if (!line.fetch) return {};
  const { response, text } = await line.request("/api/coze/config", { timeoutMs, bare: true });
  if (!response.ok) {
    const error = problem(response, text);
    if (error.code === "forbidden_origin") throw forbiddenOrigin(line, error);
    if (response.status >= 500 && !isGateways(error)) throw error;
  }
  const config = response.ok ? parseObject(text) : undefined;
  if (config) configs.set(line.base, { config, at: Date.now() });
  return config ?? configs.get(line.base)?.config ?? {};
}

/** For the page's author, who alone can help: which setting lacks what. */
function forbiddenOrigin(line, { status, problem }) {
  const { origin = "null" } = globalThis; // of a file, or in a sandbox, it is "null", whatever its address says
  const remedy = origin === "null"
    ? "A page opened from a file has no origin: serve it over http, and list that origin in GATEWAY_ALLOWED_ORIGINS."
    : `Add ${origin} to GATEWAY_ALLOWED_ORIGINS.`;
  return new GatewayError(`The gateway at ${line.base} takes no requests from pages of ${origin}. ${remedy}`, {
    status, code: "forbidden_origin", problem,
  });
}

/** Whether an error is what the gateway itself said. */
function isGateways(error) {
  return error !== undefined && error.code !== "unknown";
}

function unreachable({ error, why }) {
  return error ?? new GatewayError(`The gateway could not be reached${!why || why === "unreachable" ? "" : `: ${why}`}.`);
}

/** Why a request was never answered, in a word; `fetch` says of all networks' faults in words that differ by browser. */
function whyNot(error) {
  return error instanceof TypeError ? "unreachable" : String(error?.message ?? error);
}

function problem(response, text) {
  const body = parseObject(text);
  const known = typeof body?.code === "string" ? body : undefined;
  return new GatewayError(textOr(known?.detail) ?? textOr(known?.title) ?? `The gateway answered ${response.status}.`, {
    status: response.status,
    code: known?.code ?? (response.status === 401 ? "unauthorized" : "unknown"),
    retryAfterMs: retryAfter(response.headers.get("Retry-After")),
    problem: known,
  });
}

/** Somebody on the way answered instead: a portal that wants a login, a proxy, another server. */
function stranger({ status }) {
  return new GatewayError(`What answered (${status}) was not the gateway.`, { status, code: "unknown" });
}

/** What was answered, as text; rejects when it does not end within `LARGEST`. */
async function textOf(response) {
  if (!response.body?.getReader) return response.text();
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    text += decoder.decode(value, { stream: !done });
    if (done) return text;
    if (text.length > LARGEST) {
      reader.cancel().catch(() => {});
      throw new RangeError("The answer is too large.");
    }
  }
}

function streams(response) {
  return response.body && /^text\/event-stream\b/i.test(response.headers.get("Content-Type") ?? "");
}

/** What an error status means for the line: wait, try another transport, or give up. @returns {Outcome} */
function verdict(error) {
  const { status, code, retryAfterMs } = error;
  const asked = code !== "unknown" || retryAfterMs !== undefined; // the gateway says so itself; a proxy may fail one transport alone
  const wait = status === 408 || status === 425 || status === 429 || (status === 503 && asked);
  if (wait || (status >= 500 && retryAfterMs !== undefined)) return { end: "busy", error };
  if (code === "unknown" || status >= 500) return { end: "refused", error, fault: status >= 500 ? "network" : "own" };
  return { end: "fatal", error };
}

function retryAfter(value) {
  if (value === null) return undefined;
  const ms = /^\s*[0-9]+\s*$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(ms, 0) : undefined;
}

/**
 * Calls `onSilence` when a leg brought nothing within the first-byte deadline, or after that for `limitMs` and up to a
 * quarter more. A shorter one is doubted while a turn runs, for a proxy may begin to buffer later: one plain request, and
 * after twice as long another, says whether there is more than the leg brings. Where no heartbeat can be heard, with
 * `limitMs` `Infinity`, that is all that can be done. Hearing sets a flag and no more, for it is done for each piece: no
 * timer is moved and no clock is asked.
 */
function watchSilence(leg, limitMs, onSilence) {
  const { line } = leg;
  const firstMs = line.firstByteMs();
  let begun = false;
  let last = Date.now();
  let heard = false;
  let doubtMs; // how long a silence is doubted; heartbeats prove no more than the first doubt did
  let position; // of the line, when that was set
  const end = (why) => {
    if (stopped) return;
    watch.stop();
    watch.silent = why;
    onSilence();
  };
  const check = async () => {
    if (heard) [begun, heard, last] = [true, false, Date.now()];
    if (position !== line.position || !doubtMs) [position, doubtMs] = [line.position, line.isRunning ? firstMs : line.silenceMs()];
    const quiet = since(last);
    if (quiet >= (begun ? limitMs : firstMs)) return end(begun ? "silence" : "nothing within the first-byte deadline");
    if (begun && quiet >= doubtMs && doubtMs < limitMs) {
      doubtMs = Math.min(doubtMs * 2, line.silenceMs());
      if ((await isHeldBack(leg)) && !heard) return end("held back");
    }
    if (!stopped) timer = setTimeout(check, begun ? Math.min(limitMs - since(last), doubtMs, limitMs / 4) : firstMs);
  };
  let stopped = false;
  let timer = setTimeout(check, firstMs);
  const watch = {
    silent: undefined, // then why
    heard() { heard = true; },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
  return watch;
}

/** What `promise` gives; rejects after `ms`, or when `signal` aborts. */
function within(ms, signal, promise, name) {
  let timer;
  let stop;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${name} gave nothing within ${ms} ms`)), ms);
    stop = watchSignal(signal, () => reject(signal.reason));
  });
  return Promise.race([promise, limit]).finally(() => {
    clearTimeout(timer);
    stop();
  });
}

/** Runs `action` once when `signal` aborts, or now when it has. @returns a function that forgets it */
function watchSignal(signal, action) {
  if (!signal) return () => {};
  if (signal.aborted) {
    queueMicrotask(action);
    return () => {};
  }
  signal.addEventListener("abort", action, { once: true });
  return () => signal.removeEventListener("abort", action);
}

/** The gateway's address without a slash at its end. In a page it may be relative to the page's own. */
function baseOf(baseUrl) {
  const { origin = "", href = "" } = globalThis.location ?? {}; // in a worker made of a blob only the first is an address
  const page = [href, origin].find((address) => address.startsWith("http"));
  if (!baseUrl && !page) throw new TypeError("baseUrl is needed outside a web page");
  try {
    const url = new URL(baseUrl || "/", page);
    if (/^https?:$/.test(url.protocol) && !url.username && !url.password) return (url.origin + url.pathname).replace(/\/+$/, "");
  } catch {
    // No address at all.
  }
  throw new TypeError(`baseUrl must be an address such as "https://gateway.example", not ${JSON.stringify(String(baseUrl))}`);
}

function timingOf(given = {}) {
  const timing = { ...TIMING };
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    if (!(name in TIMING) || !(value >= 0 && value < 2 ** 31)) throw new TypeError(`timing.${name} can't be ${value}`);
    timing[name] = value;
  }
  return timing;
}

/** `value`, when a header can carry it: `fetch` refuses any other in words that sound like a broken network. */
function headerValue(option, value) {
  if (!isHeader(value)) throw new TypeError(`${option} can't be sent in a header: ${JSON.stringify(value)}`);
  return value;
}

/** A token that no header can carry is no token; what is a secret is not repeated. */
function tokenValue(token) {
  if (isHeader(token)) return token;
  throw new GatewayError("The token has characters that no header can carry.", { code: "unauthorized" });
}

function isHeader(value) {
  return /^[\t\x20-\x7e\x80-\xff]*$/.test(value);
}

function canReadStreams() {
  return typeof globalThis.ReadableStream === "function" && typeof globalThis.Response === "function" && "body" in Response.prototype;
}

/** `value` if it is text, as it should be. */
function textOr(value, other = undefined) {
  return typeof value === "string" ? value : other;
}

/** Where a turn's record is. An id may hold whatever an address may not. */
function turnPath(turnId) {
  return `/api/coze/turns/${encodeURIComponent(turnId)}`;
}

/** The JSON object in `text`; undefined for anything else. */
function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The event in `text`; undefined for what is none, or has an id that could not be gone back to. */
function parseEvent(text, id) {
  const event = parseObject(text);
  return isEvent(event, id) ? event : undefined;
}

function isEvent(event, id) {
  return typeof event?.event === "string" && event.event !== "" && isPosition(event.id ?? id ?? "");
}

/** Whether a header can carry it, so that it can be gone back to. */
function isPosition(id) {
  return typeof id === "string" && id.length <= 1_024 && isHeader(id);
}

/** Milliseconds that have passed. A clock that was put back counts as time, too: at worst one try comes early. */
function since(at) {
  return Math.abs(Date.now() - at);
}

/** A delay that somebody advised: not so short that it floods anybody, nor so long that no timer keeps it. */
function boundedDelay(ms) {
  return ms >= 0 ? Math.min(Math.max(ms, 100), 3_600_000) : 2_000;
}

/** The caller's mistake is the caller's: it is reported, and the line goes on. */
function call(handler, ...values) {
  try {
    handler?.(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

/** `randomUUID` exists in secure contexts only; a gateway on a plain http address in a local network is none. */
function randomId() {
  if (globalThis.crypto?.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
