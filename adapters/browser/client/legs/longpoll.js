/** Long-poll: one request after another, each answered with the events that are there by then. */
import { GatewayError, problem, stranger, verdict } from "../errors.js";
import { isEvent } from "../events.js";
import { parseObject, since } from "../values.js";

/** @typedef {import("../errors.js").Outcome} Outcome */

/** @returns {Promise<Outcome>} */
export async function readPoll(leg) {
  const { timing } = leg.gateway;
  for (let wait = 0; ; wait = timing.pollSeconds) {
    const began = Date.now();
    const answer = await pollOnce(leg, wait);
    leg.open();
    leg.given = false;
    const outcome = give(leg, answer);
    if (outcome) return outcome;
    const took = since(began);
    if (wait && !leg.given && took < 500) return { end: "told", why: "answered at once" }; // the gateway is draining
    if (took < timing.pollGapMs) await new Promise((resolve) => { setTimeout(resolve, timing.pollGapMs - took); });
    if (leg.signal.aborted) return { end: "interrupted" };
  }
}

/** One long-poll's answer: `{events, next, ended}`. Rejects with a `GatewayError` for any other answer. */
export async function pollOnce(leg, wait, limit) {
  const { gateway, state, signal } = leg;
  const { response, text } = await gateway.request(`${state.path}/poll`, {
    query: { after: state.position, wait, limit }, timeoutMs: wait * 1_000 + 10_000, signal,
  });
  leg.heard(response.status);
  if (!response.ok) throw problem(response, text);
  const answer = parseObject(text);
  if (!Array.isArray(answer?.events) || !answer.events.every((event) => isEvent(event))) throw stranger(response);
  return answer;
}

/** Gives the events of a long-poll to the caller. @returns {Outcome|undefined} how the leg ends, if it does */
function give(leg, { events, next, ended }) {
  for (const event of events) if (leg.deliver(event)) return { end: "finished" };
  if (leg.signal.aborted) return { end: "interrupted" };
  leg.state.moveTo(next);
  return ended && leg.state.isRunning ? { end: "finished" } : undefined;
}

/**
 * Browsers hide why a handshake or an `EventSource` failed. A plain request tells whether to give up, and whether the turn
 * is over, which an `EventSource` can't tell from a 204. Its events are given to the caller: where no stream gets through,
 * the answer still arrives, one attempt at a time.
 * @param {Outcome} outcome of the leg as the browser tells it
 * @returns {Promise<Outcome>}
 */
export async function explain(leg, outcome) {
  try {
    const answer = await pollOnce(leg, 0);
    if (answer.events.length) leg.state.transport = "longpoll"; // because that is how these events came
    return give(leg, answer) ?? { ...outcome, fault: "own" };
  } catch (error) {
    const reason = error instanceof GatewayError ? verdict(error) : outcome;
    return reason.end === "refused" ? outcome : reason;
  }
}
