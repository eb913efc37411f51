/** Cards: the parts of an answer that are not text, made readable. They are lists of objects, or JSON of any shape. */
import { make, say } from "./dom.js";
import { rendered } from "./markdown.js";
import { mediaElement } from "./media.js";

const MEDIA = ["image", "audio", "video"];
const OBJECTS = 50; // the most objects of an `object_string` that are shown
const TERMS = 400; // the most terms of a card that are shown: each costs the browser time
const TITLES = ["title", "name", "header"];

/** Whether the content of a `message` event is text. */
export const isText = ({ contentType }) => contentType === undefined || contentType === "text";

/** `object_string` is a list of text, images, audio, video and files; anything else is shown as a card. */
export function structured(content, contentType) {
  try {
    return contentType === "object_string" ? objects(content) : card(content);
  } catch {
    return make("pre", { tabindex: "0" }, content); // nested too deeply to be shown as a card
  }
}

function objects(content) {
  const value = unpack(content);
  if (!Array.isArray(value)) return card(content);
  return make("div", { class: "objects" }, ...value.slice(0, OBJECTS).map(item), ...more(value.length - OBJECTS));
}

function card(content) {
  const value = unpack(content);
  const [name, title] = titleOf(value) ?? [];
  const heading = title ? make("p", { class: "card-title", dir: "auto" }, title) : say("p", "card", { class: "card-title" });
  const rest = name && !Array.isArray(value) ? Object.fromEntries(Object.entries(value).filter(([key]) => key !== name)) : value;
  return make("section", { class: "card" }, heading, readable(rest, 0, { left: TERMS }));
}

/** A line that says that `n` more are not shown. */
const more = (n) => (n > 0 ? [say("p", "and_more", { class: "hint", "data-n": n })] : []);

function titleOf(value) {
  if (typeof value !== "object" || value === null) return undefined;
  const name = TITLES.find((key) => value[key] !== undefined && value[key] !== null);
  return typeof value[name] === "string" && value[name] ? [name, value[name]] : undefined;
}

function item(part) {
  if (typeof part !== "object" || part === null) return make("p", {}, words(part));
  if (part.type === "text") return make("div", {}, rendered(words(part.text), {}));
  const address = part.file_url ?? part.url;
  if (typeof address !== "string") return make("p", {}, words(part.name ?? part.file_id ?? part.type));
  const name = words(part.name);
  if (part.type === "file") return make("p", {}, link(address, name));
  return mediaElement(address, name, MEDIA.find((kind) => kind === part.type));
}

/** Any JSON value in one line. */
const words = (value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? ""));

/** JSON, and JSON inside strings of JSON, as terms and descriptions; no more of them in all than are `left`. */
function readable(value, depth, budget) {
  const inner = typeof value === "string" ? unpack(value) : value;
  if (typeof inner !== "object" || inner === null || depth > 6) return scalar(inner);
  const list = make("dl");
  const entries = Object.entries(inner).filter(([, content]) => !isEmpty(content));
  for (const [index, [name, content]] of entries.entries()) {
    if (budget.left-- <= 0) {
      list.append(make("dd", {}, ...more(entries.length - index)));
      break;
    }
    list.append(make("dt", { dir: "auto" }, Array.isArray(inner) ? `${Number(name) + 1}` : name), make("dd", { dir: "auto" }, readable(content, depth + 1, budget)));
  }
  return list;
}

const isEmpty = (content) => content === null || content === "" || (typeof content === "object" && !Object.keys(content).length);

function scalar(value) {
  const text = words(value);
  if (/\.(?:png|jpe?g|gif|webp|avif|svg)$/i.test(URL.parse(text)?.pathname ?? "")) return mediaElement(text, "", "image");
  return link(text);
}

/** A web address as a link; anything else is only text. */
function link(address, name = "") {
  if (!/^https?:\/\//i.test(address)) return document.createTextNode(name || address);
  return make("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, name || address);
}

function unpack(text) {
  if (typeof text !== "string" || !/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.parse(text, asWritten);
  } catch {
    return text;
  }
}

/** Numbers that a double cannot hold, such as ids of 19 digits, as they were written. */
function asWritten(_, value, context) {
  return typeof value === "number" && context?.source !== undefined && String(value) !== context.source ? context.source : value;
}
