/** The client module's reasons to wait, which are for programs, as keys of the page's words. */

const CODES = new Set(["rate_limited", "too_many_connections", "overloaded", "draining", "storage_unavailable"]);
const WHYS = [
  [/^(?:told to come back|answered at once|closed with 101[23])$/, "reason_told"],
  [/^silence$/, "reason_silence"],
  [/first-byte/, "reason_late"],
  [/^held back$/, "reason_buffered"],
  [/^damaged$/, "reason_damaged"],
  [/^(?:no event stream|closed with 1008|unknown)$/, "reason_refused"],
  [/^unreachable$/, "reason_unreachable"],
  [/^forbidden_origin$/, "reason_origin"],
  [/^the turn is/, "reason_unfinished"],
];

/**
 * Browsers do not say whether a WebSocket or an `EventSource` broke or could not connect.
 * @param {boolean} opened whether there was a connection, which then broke
 */
export function reasonKey(reason, opened) {
  if (CODES.has(reason)) return `reason_${reason}`;
  return WHYS.find(([pattern]) => pattern.test(reason))?.[1] ?? (opened ? "reason_broke" : "reason_unreachable");
}
