/** Which conversation the page shows: the page's address names it, and the browser remembers it for the next visit. */
import { memory } from "./memory.js";

const KEY = "gateway.conversation";
const ID = /^conv_[0-9a-f-]{36}$/;

/** @returns the id of the conversation that was shown before a reload, or on the last visit; undefined when there was none */
export function recallConversation() {
  return [location.hash.slice(1), memory.recall(KEY)].find((known) => ID.test(known ?? ""));
}

/** Names the conversation that is shown from now on; without an id it is a new one. */
export function rememberConversation(id) {
  memory.keep(KEY, id);
  history.replaceState(null, "", id ? `#${id}` : location.pathname + location.search);
}

/** Makes the conversation that is shown a step back in the browser's history. */
export function leaveStepBack() { history.pushState(null, "", location.pathname + location.search); }

/**
 * @param {(id: string | undefined) => void} onAddress somebody went to another conversation, or to a new one
 * @param {(id: string) => void} onOtherTab a tab of the same browser shows another conversation
 */
export function watchAddress(onAddress, onOtherTab) {
  addEventListener("hashchange", () => {
    const id = location.hash.slice(1);
    if (!id || ID.test(id)) onAddress(id || undefined);
  });
  addEventListener("storage", ({ key, newValue }) => {
    if (key === KEY && ID.test(newValue ?? "")) onOtherTab(newValue);
  });
}
