/** A question that the gateway may not have accepted yet. */
import { problem, stranger, verdict } from "./errors.js";
import { headerValue } from "./options.js";
import { parseObject } from "./values.js";

/** @typedef {import("./errors.js").Outcome} Outcome */

const BODY_FIELDS = [
  "userId", "message", "botId", "workflowId", "appId", "parameters", "shopId", "conversationId", "attachments", "context",
  "customVariables", "metaData", "shortcutCommand", "enableCard", "autoSaveHistory", "onBusy", "onDisconnect",
];

export class Question {
  body = {};
  tries = 0; // how many attempts failed
  underway = false; // whether the gateway may have the question, as far as we know

  /**
   * @param {object} options those of `chat()` or `run()`
   * @param {string} [workflowId] of the workflow that is run
   */
  constructor(options, workflowId) {
    for (const field of BODY_FIELDS) if (options[field] !== undefined) this.body[field] = options[field];
    if (workflowId !== undefined) delete this.body.workflowId; // it is in the address
    const run = workflowId === undefined ? undefined : `/api/coze/workflows/${encodeURIComponent(workflowId)}/run`;
    this.path = run ?? "/api/coze/chat";
    this.streamPath = run ?? "/api/coze/chat/stream";
    this.input = run ? JSON.stringify(this.body.parameters ?? {}) : this.body.message;
    this.key = headerValue("idempotencyKey", options.idempotencyKey ?? randomId());
    this.text = JSON.stringify(this.body);
  }

  /** The headers of a request that asks this question. */
  get headers() { return { "Content-Type": "application/json", "Idempotency-Key": this.key }; }

  /**
   * Sends the question, and remembers until it is answered that the gateway may have it. If the connection fails, the
   * question has almost never arrived; if it was aborted, by a deadline or a stop, the question may have.
   */
  async sending(send) {
    this.underway = true;
    try {
      const answer = await send();
      this.underway = false;
      return answer;
    } catch (error) {
      if (error?.name !== "AbortError") this.underway = false;
      throw error;
    }
  }

  /** Sends the question without streaming. The response is the turn's answer, or after `wait` seconds the turn's state. */
  put(gateway, wait, options) {
    return gateway.request(this.path, {
      method: "POST", headers: { ...this.headers, Prefer: `wait=${wait}` }, body: this.text, sending: (send) => this.sending(send),
      ...options,
    });
  }
}

/**
 * Sends a line's question without waiting for its answer.
 * @param {(status: number) => void} heard called with the status that was answered
 * @returns {Promise<Outcome|undefined>} nothing when it was taken
 */
export async function ask({ gateway, state }, signal, heard = () => {}) {
  const { response, text } = await state.question.put(gateway, 0, { signal });
  heard(response.status);
  if (!response.ok) return verdict(problem(response, text));
  taken(state, response, text);
  return undefined;
}

/** The line becomes the line of the turn that an answer names. @returns the answer's body */
export function taken(state, response, text) {
  const body = parseObject(text);
  if (typeof body?.turnId !== "string") throw stranger(response);
  state.accept(body.turnId, body.conversationId);
  return body;
}

/** `randomUUID` exists in secure contexts only; a plain http address in a local network is not one. */
function randomId() {
  if (globalThis.crypto?.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
