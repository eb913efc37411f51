/** The list of a turn's tools, with their inputs and outputs. */
import { make, say } from "./dom.js";

export class ToolList {
  element = make("ul", { class: "tools", hidden: true });
  #calls = []; // the names of tools that have not answered

  get isShown() { return !this.element.hidden; }

  add({ phase, name, content }) {
    this.element.hidden = false;
    if (phase === "call") this.#calls.push(name);
    const called = phase === "call" ? name : name || this.#answering();
    const line = called ? say("summary", `tool_${phase}`, { "data-name": called }) : say("summary", `tool_${phase}_unnamed`);
    this.element.append(make("li", { class: `tool-${phase}` }, make("details", {}, line, make("pre", { tabindex: "0" }, content))));
  }

  clear() {
    this.#calls = [];
    this.element.replaceChildren();
  }

  /** An output does not name its call. Which tool it comes from is clear only while a single one has not answered. */
  #answering() {
    const names = new Set(this.#calls);
    const called = this.#calls.shift();
    return names.size === 1 ? called : undefined;
  }
}
