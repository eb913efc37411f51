/** The legs by transport: each reads one connection to its end and says how it ended. */
import { watchSignal } from "../signals.js";
import { readEventSource } from "./eventsource.js";
import { readPoll } from "./longpoll.js";
import { probeSse, readSse } from "./sse.js";
import { probeWebSocket, readWebSocket } from "./websocket.js";

/** @type {Record<string, (leg: import("./leg.js").Leg) => Promise<import("../errors.js").Outcome>>} */
export const READ = { sse: readSse, websocket: readWebSocket, longpoll: readPoll, eventsource: readEventSource };

const PROBE = { sse: probeSse, websocket: probeWebSocket, longpoll: async () => true, eventsource: probeSse };

/**
 * Whether a transport would deliver now. Opens a second connection, waits for its first sign of life, and closes it.
 * @param {{gateway: import("../gateway.js").Gateway, state: import("../state.js").State}} line
 */
export async function probe(line, name, signal) {
  const abort = new AbortController();
  const stop = watchSignal(signal, () => abort.abort());
  const timer = setTimeout(() => abort.abort(), line.gateway.firstByteMs);
  try {
    return await PROBE[name](line, abort.signal);
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
    stop();
    abort.abort();
  }
}
