/** The page's memory, if the browser allows it: a storage that is denied or full forgets silently. */

/** The memory of the whole browser. */
export const memory = memoryIn("localStorage");

/** The memory of this tab. */
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
    /** Without a value the key is forgotten. */
    keep: (key, value) => attempt((kept) => (value ? kept.setItem(key, value) : kept.removeItem(key))),
  };
}
