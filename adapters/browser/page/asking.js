/** The question that this tab is asking, kept until the gateway has taken it, so that a reload asks it again. */
import { tabMemory } from "./memory.js";

const KEY = "gateway.asking";
const ASK_AGAIN_MS = 600_000; // a tab that is opened again on another day asks nothing by itself

/** @param {{id?: string, question: string, message: string, key: string, onBusy?: string, attachments?: object[], files?: string[]}} asked
 *   `id` is the conversation's */
export function keepAsked(asked) { tabMemory.keep(KEY, JSON.stringify({ ...asked, at: Date.now() })); }

/** Forgets the question: the gateway has accepted it, or nobody wants it any more. */
export function forgetAsked() { tabMemory.keep(KEY); }

/** @returns the question that was kept, with the time `at` which it was asked; undefined when there is none, or an old one */
export function recallAsked() {
  const asked = JSON.parse(tabMemory.recall(KEY) ?? "null");
  return asked !== null && Date.now() - asked.at < ASK_AGAIN_MS ? asked : undefined;
}

/** What is sent for a new question. A fault at its beginning makes the simulated Coze misbehave. */
export const fresh = (question, { fault, attachments, files }) => ({
  message: fault ? `/fault ${fault} -- ${question}` : question,
  key: crypto.getRandomValues(new Uint32Array(4)).join("-"), // the idempotency key
  attachments,
  files, // their names, for the page
});
