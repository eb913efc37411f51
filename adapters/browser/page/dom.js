/** Elements. `make("button", { class: "x", type: "button" }, "text", child)` makes one; text is never read as markup. */
import { t } from "./language.js";

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** An element whose text follows the page's language. */
export function say(tag, key, attributes = {}) {
  const element = make(tag, attributes);
  sayAnew(element, key);
  return element;
}

/** A button with a picture in place of words, which are its label and its tip. `lines` is a path on a field of 24 by 24. */
export function iconButton(key, lines, attributes = {}) {
  const button = make("button", { type: "button", "data-t-label": key, "data-t-title": key, "aria-label": t(key), title: t(key), ...attributes });
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const pen = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of [["viewBox", "0 0 24 24"], ["width", "18"], ["height", "18"], ["aria-hidden", "true"]]) picture.setAttribute(name, value);
  for (const [name, value] of [["d", lines], ["fill", "none"], ["stroke", "currentColor"], ["stroke-width", "2"]]) pen.setAttribute(name, value);
  picture.append(pen);
  button.append(picture);
  return button;
}

/** Gives an element the words of another key. */
export function sayAnew(element, key) {
  element.dataset.t = key;
  element.textContent = t(key, element.dataset);
}

/** Puts the focus into the message field if no element has it. */
export function refocus() {
  if (document.activeElement === document.body) document.getElementById("message").focus({ preventScroll: true });
}

/** A button that copies what `text()` gives, and says whether it did. */
export function copyButton(text) {
  const button = say("button", "copy", { type: "button", class: "quiet-button" });
  button.addEventListener("click", async () => {
    sayAnew(button, (await copied(text())) ? "copied" : "copy_failed");
    setTimeout(() => sayAnew(button, "copy"), 1_500);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text); // only in secure contexts, which plain http in a local network is not
    return true;
  } catch {
    return copiedFromField(text);
  }
}

function copiedFromField(text) {
  const focused = document.activeElement;
  const field = make("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true", tabindex: "-1" });
  field.value = text;
  document.body.append(field);
  field.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    field.remove();
    focused?.focus({ preventScroll: true });
  }
}
