/** Server-sent events, read by the browser's own `EventSource`. */
import { parseEvent } from "../events.js";
import { watchSignal } from "../signals.js";
import { explain } from "./longpoll.js";
import { silence, watchSilence } from "./silence.js";

/** @typedef {import("../errors.js").Outcome} Outcome */

/** @returns {Promise<Outcome>} */
export async function readEventSource(leg) {
  const { gateway, state } = leg;
  const fresh = state.position === undefined && state.scope.startsWith("turns/"); // `started` must then come at once
  const query = { lastEventId: state.position, access_token: await gateway.token(leg.signal) };
  const url = gateway.url(`${state.path}/events`, query);
  if (leg.signal.aborted) return { end: "interrupted" };
  const outcome = await new Promise((resolve) => {
    const source = new gateway.EventSource(url.href);
    let ended = false;
    const end = (how) => {
      ended = true;
      watch.stop();
      stop();
      source.close();
      resolve(how);
    };
    const watch = watchSilence(leg, Infinity, () => end(silence(watch))); // a script can't see comments, and so no heartbeats
    const stop = watchSignal(leg.signal, () => end({ end: "interrupted" }));
    const alive = () => { watch.heard(); leg.open(); };
    source.onopen = () => {
      leg.heard();
      if (!fresh) alive();
    };
    source.onmessage = ({ data, lastEventId }) => {
      if (ended) return;
      alive();
      const event = parseEvent(data, lastEventId || undefined);
      if (!event) end({ end: "broke", why: "damaged" });
      else if (leg.deliver(event, event.id ?? (lastEventId || undefined))) end({ end: "finished" });
    };
    // It would reconnect by itself, but at its own pace, for ever, and without telling when nothing answers.
    source.onerror = () => end({ end: leg.opened ? "broke" : "refused", fault: "network", why: "event source failed" });
  });
  return outcome.end === "refused" || outcome.end === "broke" ? explain(leg, outcome) : outcome;
}
