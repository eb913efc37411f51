/** Server-sent events, read by `fetch`. */
import { expired, problem, stranger, verdict } from "../errors.js";
import { parseEvent } from "../events.js";
import { textOf } from "../gateway.js";
import { EventStreamParser } from "../parser.js";
import { watchSignal } from "../signals.js";
import { since } from "../values.js";
import { silence, watchSilence } from "./silence.js";

/** @typedef {import("../errors.js").Outcome} Outcome */

/** @returns {Promise<Outcome>} */
export async function readSse(leg) {
  const { gateway, state } = leg;
  const headers = await headersOf(leg, leg.signal);
  const abort = new AbortController();
  const stop = watchSignal(leg.signal, () => abort.abort());
  const watch = watchSilence(leg, gateway.silenceMs, () => abort.abort());
  let told; // the last `retry:` of this connection
  const began = Date.now();
  let answered = false; // the response's head came: a failure from now on is the network's, not a refusal
  let damaged = false;
  let over = false;
  let timeIsUp = false;
  const parser = new EventStreamParser({
    onRetry: (ms) => { told = gateway.advise(ms); },
    onEvent: (data, id, type) => {
      if (over || damaged || type !== "message") return;
      const event = parseEvent(data, id);
      told = undefined; // a `retry:` that events follow is general advice, and no request to leave now
      if (!event) damaged = true; // a proxy damaged it: ask again from the last good position
      else over = leg.deliver(event, event.id ?? id);
    },
    onComment: (text) => { timeIsUp ||= text === "unauthorized" && gateway.hasToken; },
    onId: (id) => state.moveTo(id),
  });
  try {
    const response = await open(leg, headers, abort.signal);
    leg.heard(response.status);
    if (response.status === 204 && state.isRunning) return { end: "finished" };
    if (!response.ok) return verdict(problem(response, await textOf(response)));
    if (!streams(response)) return { end: "refused", why: "no event stream", error: stranger(response) };
    answered = true;
    state.accept(response.headers.get("X-Turn-Id"), response.headers.get("X-Conversation-Id"));
    const reader = response.body.getReader();
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      watch.heard();
      leg.open();
      parser.push(decoder.decode(value, { stream: true }));
      if (over) return { end: "finished" };
      if (damaged) return { end: "broke", why: "damaged" };
    }
    if (timeIsUp) return expired();
    return told === undefined ? { end: "broke", why: "ended early" } : { end: "told", delayMs: told, why: "told to come back" };
  } catch (error) {
    if (watch.silent) return silence(watch);
    if (answered && !leg.signal.aborted) {
      // A head, a long silence, and then a break: probably a proxy held everything back.
      const held = !leg.opened && since(began) > gateway.firstByteMs / 3;
      return { end: held ? "buffered" : "broke", why: String(error?.message ?? error) };
    }
    throw error;
  } finally {
    watch.stop();
    stop();
    abort.abort();
  }
}

/** Whether SSE would deliver now. Its first bytes tell. */
export async function probeSse(line, signal) {
  const response = await open(line, await headersOf(line, signal), signal);
  if (response.status === 204) return true;
  if (!response.ok || !streams(response)) return false;
  const reader = response.body.getReader();
  if ((await reader.read()).done) return false;
  return staysOpen(reader);
}

/** A buffering proxy releases everything when the answer ends. Such a first byte proves nothing. */
async function staysOpen(reader) {
  let ended = false;
  const drain = (async () => { while (!(await reader.read()).done); ended = true; })();
  await Promise.race([drain.catch(() => { ended = true; }), new Promise((resolve) => { setTimeout(resolve, 150); })]);
  return !ended;
}

/**
 * Made before any deadline starts, because a token may take a while. The position is sent as a header, which survives
 * proxies that rewrite queries. "0" is not a position; it asks for everything that is kept.
 */
function headersOf({ gateway, state: { question, position } }, signal) {
  const resume = position === undefined || position === "0" ? {} : { "Last-Event-ID": position };
  return gateway.headers({ Accept: "text/event-stream", ...question?.headers, ...resume }, signal);
}

function open({ gateway, state }, headers, signal) {
  const how = { headers, signal, cache: "no-store" };
  const { question } = state;
  if (!question) return gateway.fetch(gateway.url(`${state.path}/events`, { after: state.position === "0" ? "0" : undefined }), how);
  const { text: body } = question;
  return question.sending(() => gateway.fetch(gateway.url(question.streamPath), { ...how, method: "POST", body }));
}

function streams(response) {
  return response.body && /^text\/event-stream\b/i.test(response.headers.get("Content-Type") ?? "");
}
