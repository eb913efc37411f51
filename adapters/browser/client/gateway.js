/** The gateway as one line sees it: its address, requests to it, and its configuration. */
import { GatewayError, isGateways, problem } from "./errors.js";
import { baseOf, headerValue, timingOf } from "./options.js";
import { LARGEST } from "./parser.js";
import { watchSignal, within } from "./signals.js";
import { isHeader, parseObject } from "./values.js";

export class Gateway {
  static #configs = new Map(); // the latest configuration by address, for all lines of a page
  config; // the gateway's configuration, once it has been fetched
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

  // -- its configuration

  /** The configuration that any line of the page fetched last, as `{config, at}`. */
  get kept() { return Gateway.#configs.get(this.base); }

  /** Uses this configuration from now on. */
  believe(config) {
    this.config = config;
    const { heartbeatSeconds } = config;
    if (heartbeatSeconds >= 0.1 && heartbeatSeconds <= 3_600) this.heartbeatSeconds = heartbeatSeconds;
  }

  /**
   * Fetches the configuration; `{}` from a gateway that has none. The request has no header of ours, so the browser sends
   * no preflight, and a gateway that refuses this page's origin can say so.
   * Rejects when nothing answers, or a proxy that can't reach the gateway, or with `forbidden_origin`.
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

  /** An error that tells the page's author which setting of the gateway lacks this page's origin. */
  #forbiddenOrigin({ status, problem: refusal }) {
    const { origin = "null" } = globalThis; // the origin of a file or a sandboxed page is "null", whatever its address is
    const remedy = origin === "null"
      ? "A page opened from a file has no origin: serve it over http, and list that origin in GATEWAY_ALLOWED_ORIGINS."
      : `Add ${origin} to GATEWAY_ALLOWED_ORIGINS.`;
    return new GatewayError(`The gateway at ${this.base} takes no requests from pages of ${origin}. ${remedy}`, {
      status, code: "forbidden_origin", problem: refusal,
    });
  }

  /** Takes the gateway's advice on when to come back. @returns {number} the advice within bounds */
  advise(ms) { return (this.#retryMs = boundedDelay(ms)); }

  get advisedMs() { return this.#retryMs ?? boundedDelay(this.config.retryMs ?? 2_000); }

  // -- deadlines

  /** No transport was fast enough, so all of them get more time. */
  bePatient() { this.#patience = Math.min(this.#patience * 2, 16); }

  get firstByteMs() { return this.timing.firstByteMs * this.#patience; }

  /** The time in which two heartbeats should have arrived, in milliseconds. */
  get silenceMs() { return this.heartbeatSeconds * 2_000 + 5_000; }

  // -- requests

  url(path, query = {}) {
    const url = new URL(this.base + path);
    for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, String(value));
    return url;
  }

  get hasToken() { return Boolean(this.#options.token); }

  /** Whether a refused token can be replaced by a fresh one. */
  get renewsToken() { return typeof this.#options.token === "function"; }

  /** The bearer token. A function that returns none in time counts as an unreachable gateway; `signal` ends the wait. */
  async token(signal, ms = this.timing.requestMs) {
    const { token } = this.#options;
    if (typeof token !== "function") return token;
    const given = (async () => token())().catch((error) => { // an error from the token's server must not look like one from the gateway
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
   * One request with its whole answer. The end of the line aborts it, unless it has another signal, or `null` for none.
   * With `bare` it is sent without a token; `sending` wraps the sending itself.
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

  /** The JSON object at `path`. Rejects with the error if something else was answered. */
  async json(path, options) {
    const { response, text } = await this.request(path, options);
    const body = response.ok ? parseObject(text) : undefined;
    if (!body) throw problem(response, text);
    return body;
  }

  /** A turn's record. */
  record(turnId) { return this.json(turnPath(turnId)); }

  /** Tells the gateway to stop a turn. The request goes on if the line ends. */
  async cancel(turnId) {
    const { response, text } = await this.request(`${turnPath(turnId)}/cancel`, { method: "POST", signal: null });
    if (!response.ok) throw problem(response, text);
  }
}

/** The text of an answer. Rejects when it is longer than `LARGEST`. */
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

/** The path of a turn's record. The id is encoded, because it may hold characters that a path may not. */
function turnPath(turnId) {
  return `/api/coze/turns/${encodeURIComponent(turnId)}`;
}

/** Refuses a token that no header can carry. The error does not repeat the token, which is a secret. */
function tokenValue(token) {
  if (isHeader(token)) return token;
  throw new GatewayError("The token has characters that no header can carry.", { code: "unauthorized" });
}

/** A delay that the other side advised, bounded: shorter ones would flood the gateway, and timers can't keep longer ones. */
function boundedDelay(ms) {
  return ms >= 0 ? Math.min(Math.max(ms, 100), 3_600_000) : 2_000;
}
