/** What is not text in an answer, as something readable: lists of objects, and cards, which are JSON of any shape. */
import { make, say } from "./dom.js";
import { render } from "./markdown.js";
import { mediaElement } from "./media.js";

const MEDIA = ["image", "audio", "video"];
const TITLES = ["title", "name", "header"];

/** `object_string` is a list of text, images, audio, video and files; anything else is shown as a card. */
export function structured(content, contentType) {
  const value = unpack(content);
  if (contentType === "object_string" && Array.isArray(value)) {
    return make("div", { class: "objects" }, ...value.slice(0, 50).map(item));
  }
  const [name, title] = titleOf(value) ?? [];
  const heading = title ? make("p", { class: "card-title", dir: "auto" }, title) : say("p", "card", { class: "card-title" });
  const rest = name && !Array.isArray(value) ? Object.fromEntries(Object.entries(value).filter(([key]) => key !== name)) : value;
  return make("section", { class: "card" }, heading, readable(rest, 0));
}

function titleOf(value) {
  if (typeof value !== "object" || value === null) return undefined;
  const name = TITLES.find((key) => value[key] !== undefined && value[key] !== null);
  return typeof value[name] === "string" && value[name] ? [name, value[name]] : undefined;
}

function item(part) {
  if (part?.type === "text") {
    const text = make("div");
    render(text, String(part.text ?? ""), {}, true);
    return text;
  }
  const address = part?.file_url ?? part?.url;
  if (typeof address !== "string") return make("p", {}, String(part?.name ?? part?.file_id ?? part?.type ?? ""));
  const name = String(part.name ?? "");
  if (part.type === "file") return make("p", {}, link(address, name));
  return mediaElement(address, name, MEDIA.find((kind) => kind === part.type));
}

/** JSON, and JSON inside strings of JSON, as terms and descriptions. */
function readable(value, depth) {
  const inner = typeof value === "string" ? unpack(value) : value;
  if (typeof inner !== "object" || inner === null || depth > 6) return scalar(inner);
  const list = make("dl");
  for (const [name, content] of Object.entries(inner).slice(0, 60)) {
    if (isEmpty(content)) continue;
    list.append(make("dt", { dir: "auto" }, Array.isArray(inner) ? `${Number(name) + 1}` : name), make("dd", { dir: "auto" }, readable(content, depth + 1)));
  }
  return list;
}

const isEmpty = (content) => content === null || content === "" || (typeof content === "object" && !Object.keys(content).length);

function scalar(value) {
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
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
    return JSON.parse(text);
  } catch {
    return text;
  }
}
