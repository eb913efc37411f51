/** The page's language: which one it is, and the words in it. */
import { memory } from "./memory.js";
import { WORDS } from "./words.js";

const KEY = "gateway.language";
const listeners = new Set();
const formats = new Map(); // cached, because making one is slow
let current = "en";

/** The language chosen before, else the first of the browser's languages that the page has, else English. */
export function firstLanguage() {
  const wanted = [memory.recall(KEY), ...navigator.languages].map((tag) => String(tag).slice(0, 2));
  return wanted.find((tag) => tag in WORDS) ?? "en";
}

export const language = () => current;

/** The words of a key. `{n}` becomes a number, written as the language writes numbers; other values stay as they are. */
export function t(key, values = {}) {
  return WORDS[current][key].replace(/\{(\w+)\}/g, (_, name) => {
    const value = String(values[name] ?? "");
    return name === "n" && /^\d+(\.\d+)?$/.test(value) ? formatNumber(value) : value;
  });
}

/** Calls `listener` now, and whenever the language changes. */
export function onLanguage(listener) {
  listeners.add(listener);
  listener();
}

export function speak(tag) {
  current = tag;
  memory.keep(KEY, tag);
  document.documentElement.lang = { zh: "zh-CN", en: "en", es: "es" }[tag];
  document.title = t("title");
  translate(document.body);
  for (const listener of listeners) listener();
}

/** Fills in every element below `root` that names its words in `data-t`, `data-t-label`, `-title` or `-placeholder`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t, element.dataset);
  for (const element of root.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const element of root.querySelectorAll("[data-t-title]")) element.title = t(element.dataset.tTitle);
  for (const element of root.querySelectorAll("[data-t-placeholder]")) element.placeholder = t(element.dataset.tPlaceholder);
}

/** A number as the language writes it, with the decimals that it is given with. */
export function formatNumber(value) {
  const digits = String(value).split(".")[1]?.length ?? 0;
  const { lang } = document.documentElement;
  const key = `${lang} ${digits}`;
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat(lang, { minimumFractionDigits: digits }));
  return formats.get(key).format(value);
}

/** Milliseconds for people: the key of the page's words, and the number in them. */
export function timeWords(ms) {
  return ms < 1_000 ? ["milliseconds", Math.round(ms)] : ["seconds", (ms / 1_000).toFixed(ms < 10_000 ? 2 : 1)];
}

export function formatTime(ms) {
  if (ms === undefined) return "–";
  const [key, n] = timeWords(ms);
  return t(key, { n });
}
