/** The options that both `chat()` and `connect()` take, checked. A mistake in them is a `TypeError`. */
import { isHeader } from "./values.js";

const TIMING = {
  firstByteMs: 3_000, // a healthy gateway writes at once, so longer silence means a proxy that buffers
  quietAfterMs: 5_000, // how long a tab stays hidden before its connection is given back
  penaltyMs: 5_000, // how long a failed transport is not used; doubles with each failure
  penaltyMaxMs: 120_000,
  backoffMaxMs: 30_000,
  pollSeconds: 25,
  pollGapMs: 150, // the least time between two long-polls, so that a fast answer does not cost one request per piece
  configMs: 3_000,
  requestMs: 15_000, // the deadline of a plain request, and of `token()`
  stopMs: 500, // how long a stop waits for the turn of a question that is on its way
  asks: 8, // how often a question is sent before giving up, each time by every possible transport
};

/** The gateway's address without a slash at its end. In a page it may be relative to the page's own. */
export function baseOf(baseUrl) {
  const { origin = "", href = "" } = globalThis.location ?? {}; // in a worker made from a blob only `origin` is an address
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

export function timingOf(given = {}) {
  const timing = { ...TIMING };
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    if (!(name in TIMING) || !(value >= 0 && value < 2 ** 31)) throw new TypeError(`timing.${name} can't be ${value}`);
    timing[name] = value;
  }
  return timing;
}

/** `value`, when a header can carry it. */
export function headerValue(option, value) {
  if (!isHeader(value)) throw new TypeError(`${option} can't be sent in a header: ${JSON.stringify(value)}`);
  return value;
}
