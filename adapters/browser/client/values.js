/** Values from outside, checked before they are used. */

/** `value` if it is a string. */
export function textOr(value, other = undefined) {
  return typeof value === "string" ? value : other;
}

/** The JSON object in `text`; undefined for anything else. */
export function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a header can carry it. For other text `fetch` throws an error that looks like a broken network. */
export function isHeader(value) {
  return /^[\t\x20-\x7e\x80-\xff]*$/.test(value);
}

/** Milliseconds that have passed. A clock that was set back counts as time, too: at worst one attempt is early. */
export function since(at) {
  return Math.abs(Date.now() - at);
}
