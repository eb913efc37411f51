/**
 * Images, audio and video. A bot's text decides nothing about the network: only `data:` images, and media of the
 * hosts that the operator lists, load by themselves. Everything else waits for a click, one address at a time.
 */
import { make, say } from "./dom.js";
import { t } from "./language.js";

const KINDS = { audio: /\.(?:mp3|wav|ogg|oga|opus|m4a|aac|flac)$/i, video: /\.(?:mp4|webm|ogv|mov|m4v)$/i };
const trusted = (document.querySelector('meta[name="gateway-media-hosts"]')?.content ?? "").split(/[\s,]+/).filter(Boolean);
const broken = new Set(); // addresses that failed: they are not loaded again by a rendering, only by a click
const approved = new Set(); // addresses that were clicked since the page was opened

/** @returns {"audio"|"video"|"image"} by the address's ending; an image when it says nothing */
export function mediaKind(address) {
  const path = URL.parse(address)?.pathname ?? "";
  return Object.keys(KINDS).find((kind) => KINDS[kind].test(path)) ?? "image";
}

/**
 * Replaces a renderer's mark by the medium itself, or by a button that loads it. A text that is still being written
 * is rendered again and again, and its address may be incomplete: there nothing is loaded and nothing can be pressed yet.
 */
export function placeMedia(mark, closed) {
  const { media: address, alt } = mark.dataset;
  const kind = mediaKind(address);
  mark.replaceWith(closed || /^data:/i.test(address) ? mediaElement(address, alt) : ask(kind, address, alt, { disabled: true }));
}

export function mediaElement(address, alt = "", kind = mediaKind(address)) {
  if (broken.has(address)) return failure(kind, address, alt);
  if (/^data:image\//i.test(address)) return picture(address, alt);
  const url = URL.parse(address);
  if (!url || !/^https?:$/.test(url.protocol)) return document.createTextNode(alt || address);
  if (approved.has(address) || isTrusted(url.hostname)) return element(kind, address, alt);
  const button = ask(kind, address, alt);
  button.addEventListener("click", () => {
    approved.add(address);
    const shown = element(kind, address, alt);
    button.replaceWith(shown);
    const target = shown.querySelector("audio, video") ?? shown;
    if (target === shown) shown.tabIndex = -1; // a picture: whoever pressed a key goes on from here
    target.focus({ preventScroll: true });
  });
  return button;
}

function ask(kind, address, alt, attributes = {}) {
  return make("button", { type: "button", class: `media-ask media-${kind}`, title: address, ...attributes }, say("span", `load_${kind}`), " ",
    say("small", "load_from", { "data-host": URL.parse(address)?.host ?? "" }), ...(alt ? [make("em", {}, alt)] : []));
}

function isTrusted(hostname) {
  const host = hostname.replace(/^\[(.*)\]$/, "$1"); // as the operator's list has an IPv6 address
  return trusted.some((name) => host === name || (name.startsWith("*.") && host.endsWith(name.slice(1))));
}

function element(kind, address, alt) {
  if (kind === "image") return picture(address, alt);
  const player = make(kind, { controls: true, preload: "metadata", tabindex: "0", ...(alt ? { "aria-label": alt } : {}) });
  const frame = make("span", { class: "media-frame" }, player);
  sayIfItFails(player, frame, kind, address, alt);
  player.src = address;
  return frame;
}

function picture(address, alt) {
  const image = make("img", { alt, class: "media-image", referrerpolicy: "no-referrer", decoding: "async" });
  sayIfItFails(image, image, "image", address, alt);
  image.src = address;
  return image;
}

/** If `medium` fails, puts a word about it in the place of `place`. */
function sayIfItFails(medium, place, kind, address, alt) {
  medium.addEventListener("error", () => {
    broken.add(address);
    place.replaceWith(failure(kind, address, alt));
  }, { once: true });
}

/** Says that a medium failed. If it came from a network, a button loads it again. */
function failure(kind, address, alt) {
  const place = make("span", { class: "media-failed" }, say("span", "load_failed"));
  if (!/^https?:/i.test(address)) return place;
  const again = say("button", `load_${kind}`, { type: "button", class: "quiet-button" });
  again.addEventListener("click", () => {
    broken.delete(address);
    place.replaceWith(element(kind, address, alt));
  });
  const link = say("a", "open_new_tab", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" });
  place.append(again, link);
  return place;
}

/** One player for the pieces of a spoken answer: Ogg as it is, otherwise 24 kHz 16-bit mono PCM behind a WAV header. */
export function spoken(pieces) {
  const parts = pieces.flatMap(decoded);
  if (!parts.length) throw new TypeError("nothing that could be played");
  const isOgg = parts[0]?.[0] === 0x4f && parts[0]?.[1] === 0x67;
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const blob = isOgg ? new Blob(parts, { type: "audio/ogg" }) : new Blob([wavHead(size), ...parts], { type: "audio/wav" });
  const player = make("audio", { controls: true, tabindex: "0", "data-t-label": "audio", "aria-label": t("audio") });
  player.src = URL.createObjectURL(blob);
  return make("span", { class: "media-frame" }, player);
}

/** The bytes of a piece. A damaged piece gives none, so that the others can still be heard. */
function decoded(piece) {
  try {
    return [Uint8Array.from(atob(piece), (char) => char.charCodeAt(0))];
  } catch {
    return [];
  }
}

function wavHead(size, rate = 24_000) {
  const view = new DataView(new ArrayBuffer(44));
  const word = (offset, text) => [...text].forEach((char, i) => view.setUint8(offset + i, char.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, 36 + size, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, size, true);
  return view.buffer;
}
