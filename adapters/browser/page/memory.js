/** What the page remembers, where the browser lets it: a storage that is denied, or full, forgets without a word. */

/** The whole browser's. */
export const memory = memoryIn("localStorage");

/** This tab's alone. */
export const tabMemory = memoryIn("sessionStorage");

function memoryIn(storage) {
  const attempt = (action) => {
    try {
      return action(globalThis[storage]) ?? undefined;
    } catch {
      return undefined;
    }
  };
  return {
    /** @returns {string|undefined} */
    recall: (key) => attempt((kept) => kept.getItem(key)),
    /** Without a value it is forgotten. */
    keep: (key, value) => attempt((kept) => (value ? kept.setItem(key, value) : kept.removeItem(key))),
  };
}
