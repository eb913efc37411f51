/** The silence of a leg: how long it may last, and what it means. */
import { since } from "../values.js";
import { pollOnce } from "./longpoll.js";

/** Heartbeats that don't come are held back, too, if they are not lost: another transport fares better either way. */
export function silence({ silent }) {
  return { end: "buffered", why: silent };
}

/**
 * Calls `onSilence` when a leg brought nothing within the first-byte deadline, or after that for `limitMs` and up to a
 * quarter more. A shorter one is doubted while a turn runs, for a proxy may begin to buffer later: one plain request, and
 * after twice as long another, says whether there is more than the leg brings. Where no heartbeat can be heard, with
 * `limitMs` `Infinity`, that is all that can be done. Hearing sets a flag and no more, for it is done for each piece: no
 * timer is moved and no clock is asked.
 */
export function watchSilence(leg, limitMs, onSilence) {
  const { gateway, state } = leg;
  const firstMs = gateway.firstByteMs;
  let begun = false;
  let last = Date.now();
  let heard = false;
  let doubtMs; // how long a silence is doubted; heartbeats prove no more than the first doubt did
  let position; // of the line, when that was set
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
    silent: undefined, // then why
    heard() { heard = true; },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
  return watch;
}

/**
 * Asks beside a quiet leg whether there is more than it brings. Then somebody holds it back, or it is dead.
 * @returns {Promise<boolean>}
 */
async function isHeldBack(leg) {
  const { gateway, state } = leg;
  const { position } = state;
  try {
    if (!(await pollOnce(leg, 0, 1)).events.length) return false;
    await new Promise((resolve) => { setTimeout(resolve, gateway.firstByteMs / 3); }); // it may be on its way
    return state.position === position;
  } catch {
    return false;
  }
}
