/** The silence of a leg: how long it may last, and what it means. */
import { since } from "../values.js";
import { pollOnce } from "./longpoll.js";

/** Heartbeats are missing: they are lost, or a proxy holds them back. In both cases another transport may work better. */
export function silence({ silent }) {
  return { end: "buffered", why: silent };
}

/**
 * Calls `onSilence` when a leg brought nothing within the first-byte deadline, or later nothing for `limitMs` and up to a
 * quarter more. While a turn runs, shorter silences are checked, because a proxy may start to buffer later: one plain
 * request, and after twice the time another, finds out whether the leg lacks events. For transports whose heartbeats can't
 * be seen (`limitMs` is `Infinity`) this is the only check. Hearing only sets a flag, because it happens for every piece:
 * no timer is moved and no clock is read.
 */
export function watchSilence(leg, limitMs, onSilence) {
  const { gateway, state } = leg;
  const firstMs = gateway.firstByteMs;
  let begun = false;
  let last = Date.now();
  let heard = false;
  let doubtMs; // the silence after which the next check follows; heartbeats don't reset it
  let position; // the line's position when `doubtMs` was set
  const end = (why) => {
    if (stopped) return;
    watch.stop();
    watch.silent = why;
    onSilence();
  };
  const check = async () => {
    if (heard) [begun, heard, last] = [true, false, Date.now()];
    if (position !== state.position || !doubtMs) {
      [position, doubtMs] = [state.position, state.isRunning ? firstMs : gateway.silenceMs];
    }
    const quiet = since(last);
    if (quiet >= (begun ? limitMs : firstMs)) return end(begun ? "silence" : "nothing within the first-byte deadline");
    if (begun && quiet >= doubtMs && doubtMs < limitMs) {
      doubtMs = Math.min(doubtMs * 2, gateway.silenceMs);
      if ((await isHeldBack(leg)) && !heard) return end("held back");
    }
    if (!stopped) timer = setTimeout(check, begun ? Math.min(limitMs - since(last), doubtMs, limitMs / 4) : firstMs);
    return undefined;
  };
  let stopped = false;
  let timer = setTimeout(check, firstMs);
  const watch = {
    silent: undefined, // the reason, once it is silent
    heard() { heard = true; },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
  return watch;
}

/**
 * Finds out by a plain request whether a quiet leg lacks events. If so, a proxy holds them back, or the leg is dead.
 * @returns {Promise<boolean>}
 */
async function isHeldBack(leg) {
  const { gateway, state } = leg;
  const { position } = state;
  try {
    if (!(await pollOnce(leg, 0, 1)).events.length) return false;
    await new Promise((resolve) => { setTimeout(resolve, gateway.firstByteMs / 3); }); // the event may be on its way
    return state.position === position;
  } catch {
    return false;
  }
}
