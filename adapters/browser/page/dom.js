/** Makes one element: `make("button", { class: "x", type: "button" }, "text", child)`. Text is always text. */
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
  const element = make(tag, { ...attributes, "data-t": key });
  element.textContent = t(key, element.dataset);
  return element;
}

/** A button that copies what `text()` gives, and says that it did. */
export function copyButton(text) {
  const button = say("button", "copy", { type: "button", class: "quiet-button" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text());
    button.dataset.t = "copied";
    button.textContent = t("copied");
    setTimeout(() => {
      button.dataset.t = "copy";
      button.textContent = t("copy");
    }, 1_500);
  });
  return button;
}
