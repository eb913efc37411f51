/** Abort signals, watched. */

/** Runs `action` once when `signal` aborts, or now if it has. @returns a function that stops watching */
export function watchSignal(signal, action) {
  if (!signal) return () => {};
  if (signal.aborted) {
    queueMicrotask(action);
    return () => {};
  }
  signal.addEventListener("abort", action, { once: true });
  return () => signal.removeEventListener("abort", action);
}

/** The result of `promise`; rejects after `ms`, or when `signal` aborts. */
export function within(ms, signal, promise, name) {
  let timer;
  let stop;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${name} gave nothing within ${ms} ms`)), ms);
    stop = watchSignal(signal, () => reject(signal.reason));
  });
  return Promise.race([promise, limit]).finally(() => {
    clearTimeout(timer);
    stop();
  });
}
