/** The gateway's events. */
import { isHeader, parseObject } from "./values.js";

/** @typedef {import("./coze-gateway").GatewayEvent} GatewayEvent */

const LAST = new Set(["completed", "cancelled", "error"]);

/** Whether an event is its turn's last. */
export function isLast(event) {
  return LAST.has(event.event);
}

/** The text of an answer after one more event: pieces are appended, `replace` and `reset` start anew. */
export function fold(text, event) {
  if (event.event === "message") {
    if ((event.contentType !== undefined && event.contentType !== "text") || typeof event.content !== "string") return text;
    return event.replace ? event.content : text + event.content;
  }
  if (event.event === "started") return "";
  const whole = event.event === "reset" || isLast(event);
  return whole && typeof event.content === "string" ? event.content : text;
}

/** The event in `text`; undefined if there is none, or if a line could not resume at its id. */
export function parseEvent(text, id) {
  const event = parseObject(text);
  return isEvent(event, id) ? event : undefined;
}

export function isEvent(event, id) {
  return typeof event?.event === "string" && event.event !== "" && isPosition(event.id ?? id ?? "");
}

/** Whether a header can carry the id, so that a line can resume at it. */
export function isPosition(id) {
  return typeof id === "string" && id.length <= 1_024 && isHeader(id);
}
