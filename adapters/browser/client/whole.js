/** The whole answer at once, for a gateway or a browser that does not stream. */
import { failure, problem, verdict } from "./errors.js";
import { taken } from "./question.js";
import { textOr } from "./values.js";

/** @typedef {import("./errors.js").Outcome} Outcome */

const OVER = new Set(["completed", "cancelled", "failed"]);

/** Whether a turn's status is final. */
export function isOver({ status }) {
  return OVER.has(status);
}

/**
 * Makes one request for the whole answer. While the answer is not ready, the request is repeated under the same key.
 * @returns {Promise<Outcome|undefined>} nothing when the line can go on at once, or is over
 */
export async function askWhole({ gateway, state, presence }, signal) {
  const { question } = state;
  const input = question.input;
  try {
    const { response, text } = await question.put(gateway, 50, { timeoutMs: 900_000, signal });
    if (state.closed) return undefined;
    if (response.status < 500) presence.answered();
    if (response.ok) state.report("open", { reason: "whole answer" });
    if (!response.ok) {
      const error = problem(response, text);
      const turnId = textOr(error.problem?.turnId);
      if (turnId || error.code.startsWith("upstream_")) return await giveFailure({ gateway, state }, error, turnId, input);
      state.accept(response.headers.get("X-Turn-Id"), response.headers.get("X-Conversation-Id")); // the turn goes on
      return verdict(error);
    }
    const answer = taken(state, response, text);
    if (isOver(answer)) giveWhole(state, { ...answer, input });
    return undefined; // otherwise the turn is running or waits for tools: the line listens to it by long-poll
  } catch (error) {
    return signal.aborted || state.closed ? undefined : failure(error);
  }
}

/** The gateway accepted the question, but the answer failed: the problem is the last event, the turn's record has the text. */
async function giveFailure({ gateway, state }, { message, code, problem: told }, turnId, input) {
  const { retryable = false, upstream, conversationId, content } = told ?? {};
  state.accept(turnId, conversationId);
  const record = turnId && content === undefined ? await gateway.record(turnId).catch(() => undefined) : undefined;
  const error = { error: message, code, retryable, ...(upstream ? { upstream } : {}) };
  giveWhole(state, { ...record, input, error, status: "failed", content: content ?? record?.content, turnId }, { lastOnly: !turnId });
}

/** Gives a finished turn as the events that it would have been. Only the last of them has an id. */
export function giveWhole(state, turn, { lastOnly = false } = {}) {
  state.moveTo(turn.position);
  const { status, conversationId = state.conversationId, turnId = state.turnId } = turn;
  const content = textOr(turn.content, "");
  const suggestions = Array.isArray(turn.suggestions) ? turn.suggestions : [];
  if (!lastOnly) {
    state.give({ event: "started", conversationId, turnId, input: turn.input });
    if (textOr(turn.reasoning)) state.give({ event: "reasoning", content: turn.reasoning });
    if (content) state.give({ event: "message", content });
    for (const suggestion of suggestions) if (textOr(suggestion)) state.give({ event: "suggestion", content: suggestion });
  }
  const ids = { conversationId, turnId, content };
  if (status === "cancelled") state.end({ event: "cancelled", ...ids });
  else if (status === "failed") {
    const error = typeof turn.error === "object" && !Array.isArray(turn.error) ? turn.error : {};
    state.end({ event: "error", error: "", code: "internal", retryable: false, ...error, ...ids });
  } else {
    const recovered = turn.recovered === undefined ? {} : { recovered: turn.recovered }; // missing in a whole answer
    const awaiting = turn.awaitingReply === true ? { awaitingReply: true } : {};
    state.end({ event: "completed", ...ids, usage: turn.usage ?? null, ...recovered, ...awaiting });
  }
}
