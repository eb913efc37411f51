/** Errors: what went wrong with a request, and what the line that made it should do. */
import { parseObject, textOr } from "./values.js";

/**
 * How a connection ended.
 * @typedef {object} Outcome
 * @property {"finished"|"told"|"busy"|"broke"|"refused"|"buffered"|"fatal"|"interrupted"} end
 * @property {number} [delayMs] the pause that the gateway asked for
 * @property {"network"|"own"} [fault] whether the network or the transport itself is to blame
 * @property {string} [why]
 * @property {GatewayError} [error]
 * @property {boolean} [progressed] whether the connection brought a new event
 * @property {boolean} [answered] whether anything answered it
 */

/** The gateway refused a request, or could not be reached. `code` is one of the gateway's problem codes. */
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

/** The error that an answer with an error status stands for. */
export function problem(response, text) {
  const body = parseObject(text);
  const known = typeof body?.code === "string" ? body : undefined;
  return new GatewayError(textOr(known?.detail) ?? textOr(known?.title) ?? `The gateway answered ${response.status}.`, {
    status: response.status,
    code: known?.code ?? (response.status === 401 ? "unauthorized" : "unknown"),
    retryAfterMs: retryAfter(response.headers.get("Retry-After")),
    problem: known,
  });
}

/** Something else answered in place of the gateway: a login portal, a proxy, another server. */
export function stranger({ status }) {
  return new GatewayError(`What answered (${status}) was not the gateway.`, { status, code: "unknown" });
}

/** Whether an error comes from the gateway itself. */
export function isGateways(error) {
  return error !== undefined && error.code !== "unknown";
}

export function unreachable({ error, why }) {
  return error ?? new GatewayError(`The gateway could not be reached${!why || why === "unreachable" ? "" : `: ${why}`}.`);
}

/** Why a request was never answered, in a word. The texts of `fetch` errors differ between browsers. */
export function whyNot(error) {
  return error instanceof TypeError ? "unreachable" : String(error?.message ?? error);
}

/** What an error status means for the line: wait, try another transport, or give up. @returns {Outcome} */
export function verdict(error) {
  const { status, code, retryAfterMs } = error;
  const asked = code !== "unknown" || retryAfterMs !== undefined; // the gateway itself answered; an error of a proxy may concern one transport only
  const wait = status === 408 || status === 425 || status === 429 || (status === 503 && asked);
  if (wait || (status >= 500 && retryAfterMs !== undefined)) return { end: "busy", error };
  if (code === "unknown" || status >= 500) return { end: "refused", error, fault: status >= 500 ? "network" : "own" };
  return { end: "fatal", error };
}

/** What a failed plain request means for the line. @returns {Outcome} */
export function failure(error) {
  return error instanceof GatewayError ? verdict(error) : { end: "refused", why: whyNot(error) };
}

/** The outcome of a connection whose token expired. @returns {Outcome} */
export function expired() {
  return { end: "fatal", error: new GatewayError("The token is no longer valid.", { status: 401, code: "unauthorized" }) };
}

function retryAfter(value) {
  if (value === null) return undefined;
  const ms = /^\s*[0-9]+\s*$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(ms, 0) : undefined;
}
