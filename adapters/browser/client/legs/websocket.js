/** A leg over WebSocket. */
import { expired } from "../errors.js";
import { isEvent } from "../events.js";
import { watchSignal } from "../signals.js";
import { parseObject } from "../values.js";
import { explain } from "./longpoll.js";
import { silence, watchSilence } from "./silence.js";

/** @typedef {import("../errors.js").Outcome} Outcome */

const PING = '{"type":"ping"}';

/** @returns {Promise<Outcome>} */
export async function readWebSocket(leg) {
  const { gateway } = leg;
  const url = await address(leg, leg.signal);
  if (leg.signal.aborted) return { end: "interrupted" };
  const outcome = await new Promise((resolve) => {
    const socket = new gateway.WebSocket(url);
    let ended; // the outcome, once the leg has ended
    let hangUp;
    const end = (how) => {
      ended ??= how;
      watch.stop();
      clearInterval(pings);
      stop();
      try { socket.close(); } catch { /* still connecting in some implementations: it closes by itself */ }
      // The package ws waits half a minute for a vanished peer, and keeps the process alive meanwhile.
      if (socket.terminate && socket.readyState !== 3) hangUp = setTimeout(() => socket.terminate(), 1_000);
      resolve(ended);
    };
    const watch = watchSilence(leg, gateway.silenceMs, () => end(silence(watch)));
    const ping = () => { if (socket.readyState === 1) socket.send(PING); };
    const pings = setInterval(ping, gateway.heartbeatSeconds * 1_000); // a script can't see ping frames, so it sends messages
    const stop = watchSignal(leg.signal, () => end({ end: "interrupted" }));
    socket.onopen = () => { leg.heard(); ping(); }; // a handshake does not prove that messages get through
    socket.onmessage = ({ data }) => {
      if (ended) return;
      watch.heard();
      leg.open();
      const said = parseObject(data);
      if (!said || (said.event !== undefined && !isEvent(said))) end({ end: "broke", why: "damaged" });
      else if (said.event && leg.deliver(said)) end({ end: "finished" });
    };
    socket.onerror = () => setTimeout(() => end(closing(leg, 1006)), 0); // in some runtimes no close event follows
    socket.onclose = ({ code }) => {
      clearTimeout(hangUp);
      end(closing(leg, code));
    };
  });
  return outcome.end === "refused" ? explain(leg, outcome) : outcome;
}

/** What it means that a socket was closed with `code`. @returns {Outcome} */
function closing({ gateway, state, opened }, code) {
  if (code === 1008 && gateway.hasToken) return expired();
  if (code === 1008) return { end: "refused", fault: "own", why: "closed with 1008" }; // perhaps a cookie has expired
  if (code === 1012 || code === 1013) return { end: "told", why: `closed with ${code}` };
  if (code === 1000 && state.scope.startsWith("turns/") && opened) return { end: "finished" };
  if (opened) return { end: "broke", why: `closed with ${code}` };
  return { end: "refused", fault: "network", why: "handshake refused" };
}

/** Whether a WebSocket would deliver now. The answer to a ping tells. */
export async function probeWebSocket(line, signal) {
  const url = await address(line, signal);
  return new Promise((resolve) => {
    const socket = new line.gateway.WebSocket(url);
    const end = (works) => { socket.close(); resolve(works); };
    socket.onopen = () => socket.send(PING);
    socket.onmessage = () => end(true);
    socket.onclose = () => resolve(false);
    socket.onerror = () => resolve(false); // without a listener some runtimes throw the error
    watchSignal(signal, () => end(false));
  });
}

/** The token goes into the address, because a browser's WebSocket can't send our headers. */
async function address({ gateway, state }, signal) {
  const url = gateway.url(`${state.path}/ws`, { after: state.position, access_token: await gateway.token(signal) });
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}
