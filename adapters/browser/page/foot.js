/** The foot of an answer: the turn's own figures, and what can be done with the answer. */
import { copyButton, make, say } from "./dom.js";
import { timeWords } from "./language.js";
import { opinionButtons } from "./opinion.js";

/** @param {object} summary as `Figures` gives it; what it lacks was not measured @returns {Node[]} */
export function figuresShown({ firstMs, totalMs, characters, transport }) {
  const parts = transport ? [transport === "whole" ? say("span", "transport_whole") : transport] : [];
  for (const ms of [firstMs, totalMs].filter((known) => known !== undefined)) {
    const [key, n] = timeWords(ms);
    parts.push(say("span", key, { "data-n": n }));
  }
  const size = characters ? [say("span", "characters_n", { "data-n": characters })] : [];
  return [make("span", {}, ...parts.flatMap((part) => [" · ", part]).slice(1)), ...size];
}

/** @param {import("./turn-view.js").TurnView} view a turn that is over @returns {Node[]} */
export function acts(view) {
  const buttons = view.state === "cancelled" ? [retryButton(view)] : [];
  if (view.text) buttons.push(copyButton(() => view.text));
  if (view.text && view.turnId && view.state !== "error") buttons.push(...opinionButtons(view, view.page.giveFeedback));
  return buttons.length ? [make("span", { class: "acts" }, ...buttons)] : [];
}

export function retryButton(view) {
  return say("button", "retry", { type: "button", class: "quiet-button retry", onclick: () => view.page.retry(view) });
}
