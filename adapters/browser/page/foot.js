/** The foot of an answer: the turn's own figures. */
import { make, say } from "./dom.js";
import { timeWords } from "./language.js";

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
