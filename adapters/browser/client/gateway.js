/** The gateway as one line sees it: its address, requests to it, and what it says it can do. */
import { GatewayError, isGateways, problem } from "./errors.js";
import { baseOf, headerValue, timingOf } from "./options.js";
import { LARGEST } from "./parser.js";
import { watchSignal, within } from "./signals.js";
import { isHeader, parseObject } from "./values.js";

export class Gateway {
  static #configs = new Map(); // by address: what each said last, for all lines of a page
  config; // what it says it can do, once somebody was there to ask
  heartbeatSeconds = 15;
  #patience = 1;
  #retryMs;
  #options;
  #signal;

  /** @param {AbortSignal} signal of the line's life: requests end with it */
  constructor(options, signal) {
    this.#options = options;
    this.#signal = signal;
    this.base = baseOf(options.baseUrl);
    this.timing = timingOf(options.timing);
    this.fetch = (options.network?.fetch ?? globalThis.fetch)?.bind(globalThis);
    this.WebSocket = options.network?.WebSocket ?? globalThis.WebSocket;
    this.EventSource = options.network?.EventSource ?? globalThis.EventSource;
    if (options.language) headerValue("language", options.language);
  }

  // -- what it says

  /** What it said to any line of the page, as `{config, at}`. */
  get kept() { return Gateway.#configs.get(this.base); }

  /** Goes by what it says from now on. */
  believe(config) {
    this.config = config;
    const { heartbeatSeconds } = config;
    if (heartbeatSeconds >= 0.1 && heartbeatSeconds <= 3_600) this.heartbeatSeconds = heartbeatSeconds;
  }

  /**
   * Asks what it can do; `{}` from one that doesn't say. The request has no header of ours, so a browser asks no leave
   * before it, and a gateway that refuses this page's origin can say so.
   * Rejects when nobody answers, or a proxy that has nobody behind it, or with `forbidden_origin`.
   */
  async readConfig(timeoutMs) {
    if (!this.fetch) return {};
    const { response, text } = await this.request("/api/coze/config", { timeoutMs, bare: true });
    if (!response.ok) {
      const error = problem(response, text);
      if (error.code === "forbidden_origin") throw this.#forbiddenOrigin(error);
      if (response.status >= 500 && !isGateways(error)) throw error;
    }
    const config = response.ok ? parseObject(text) : undefined;
    if (config) Gateway.#configs.set(this.base, { config, at: Date.now() });
    return config ?? this.kept?.config ?? {};
  }

  /** For the page's author, who alone can help: which setting lacks what. */
  #forbiddenOrigin({ status, problem: refusal }) {
    const { origin = "null" } = globalThis; // of a file, or in a sandbox, it is "null", whatever its address says
    const remedy = origin === "null"
      ? "A page opened from a file has no origin: serve it over http, and list that origin in GATEWAY_ALLOWED_ORIGINS."
      : `Add ${origin} to GATEWAY_ALLOWED_ORIGINS.`;
    return new GatewayError(`The gateway at ${this.base} takes no requests from pages of ${origin}. ${remedy}`, {
      status, code: "forbidden_origin", problem: refusal,
    });
  }

  /** Takes its advice when to come back. @returns {number} the advice within bounds */
  advise(ms) { return (this.#retryMs = boundedDelay(ms)); }

  get advisedMs() { return this.#retryMs ?? boundedDelay(this.config.retryMs ?? 2_000); }

  // -- deadlines

  /** No transport was fast enough, so each is given more time. */
  bePatient() { this.#patience = Math.min(this.#patience * 2, 16); }

  get firstByteMs() { return this.timing.firstByteMs * this.#patience; }

  /** Two heartbeats that did not come, in milliseconds. */
  get silenceMs() { return this.heartbeatSeconds * 2_000 + 5_000; }

  // -- requests

  url(path, query = {}) {
    const url = new URL(this.base + path);
    for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, String(value));
    return url;
  }

  get hasToken() { return Boolean(this.#options.token); }

  /** Whether a token that is refused can be replaced by a fresh one. */
  get renewsToken() { return typeof this.#options.token === "function"; }

  /** The bearer token. A function that gives none counts as unreachable after a while, and ends with `signal`. */
  async token(signal, ms = this.timing.requestMs) {
    const { token } = this.#options;
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
    if (this.#options.language) headers["Accept-Language"] = this.#options.language;
    return headers;
  }

  /**
   * One request with its whole answer. It ends with the line unless it has a signal of its own, or `null` for none.
   * `bare` says that it goes without a token; `sending` is told when it goes out.
   * @param {(send: () => Promise<object>) => Promise<object>} [how.sending]
   */
  async request(path, { query, timeoutMs = this.timing.requestMs, signal = this.#signal, headers, sending, bare, ...init } = {}) {
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
      return await (sending ? sending(exchange) : exchange());
    } finally {
      clearTimeout(timer);
      stop();
    }
  }

  /** The JSON object at `path`. Rejects with what was answered instead. */
  async json(path, options) {
    const { response, text } = await this.request(path, options);
    const body = response.ok ? parseObject(text) : undefined;
    if (!body) throw problem(response, text);
    return body;
  }

  /** A turn's record. */
  record(turnId) { return this.json(turnPath(turnId)); }

  /** Tells it to stop a turn, whatever becomes of the line. */
  async cancel(turnId) {
    const { response, text } = await this.request(`${turnPath(turnId)}/cancel`, { method: "POST", signal: null });
    if (!response.ok) throw problem(response, text);
  }
}

/** What was answered, as text; rejects when it does not end within `LARGEST`. */
export async function textOf(response) {
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

/** Where a turn's record is. An id may hold whatever an address may not. */
function turnPath(turnId) {
  return `/api/coze/turns/${encodeURIComponent(turnId)}`;
}

/** A token that no header can carry is no token; what is a secret is not repeated. */
function tokenValue(token) {
  if (isHeader(token)) return token;
  throw new GatewayError("The token has characters that no header can carry.", { code: "unauthorized" });
}

/** A delay that somebody advised: not so short that it floods anybody, nor so long that no timer keeps it. */
function boundedDelay(ms) {
  return ms >= 0 ? Math.min(Math.max(ms, 100), 3_600_000) : 2_000;
}
