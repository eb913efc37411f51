/** Preferences that the page remembers: its colours, and the values of fields. */
import { onLanguage, t } from "./language.js";
import { memory } from "./memory.js";

const KEY = "gateway.theme";
const THEMES = ["auto", "light", "dark"];

/** A button that goes through the system's colours, light ones and dark ones. */
export function addThemeButton(button) {
  const root = document.documentElement;
  const known = memory.recall(KEY);
  root.dataset.theme = THEMES.includes(known) ? known : "auto";
  const name = () => {
    const label = t(`theme_${root.dataset.theme}`);
    button.setAttribute("aria-label", label);
    button.title = label;
  };
  button.addEventListener("click", () => {
    root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
    memory.keep(KEY, root.dataset.theme);
    name();
  });
  onLanguage(name);
}

/** Keeps a field's value. A field that was emptied has its default again after a reload. */
export function keepField(field, keeper = memory) {
  const key = `gateway.field.${field.id}`;
  field.value = keeper.recall(key) ?? field.defaultValue;
  field.addEventListener("change", () => keeper.keep(key, field.value));
}
