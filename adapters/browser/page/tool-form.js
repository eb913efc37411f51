/** The form for the results of tools that a turn waits for. The input stays until the gateway has accepted it. */
import { sentence } from "./api.js";
import { make, refocus, say } from "./dom.js";

export class ToolForm {
  #sending = false;
  #wentOn = false;

  /**
   * @param {object[]} toolCalls
   * @param {(outputs: {toolCallId: string, output: string}[]) => Promise<void>} give rejects with `answered` set when
   *   the turn does not wait any more
   */
  constructor(toolCalls, give) {
    this.give = give;
    this.trouble = make("p", { class: "trouble", role: "alert", hidden: true });
    this.button = say("button", "action_send", { class: "primary" });
    this.element = make("form", { class: "outputs" }, ...toolCalls.map(field), this.trouble, this.button);
    this.element.addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.#send();
    });
  }

  /** The turn goes on: somebody has given the results, here or elsewhere. */
  goesOn() {
    this.#wentOn = true;
    if (!this.#sending) this.close("outputs_given");
  }

  /** Removes the form; with a key, a line with its words takes the form's place. */
  close(key) {
    this.element.replaceWith(...(key ? [say("p", key, { class: "hint" })] : []));
  }

  async #send() {
    if (this.#sending) return;
    this.#sending = this.button.disabled = true;
    this.trouble.hidden = true;
    try {
      await this.give([...new FormData(this.element)].map(([toolCallId, output]) => ({ toolCallId, output })));
      this.close();
    } catch (error) {
      if (error.answered) this.close("outputs_given");
      else if (this.#wentOn) this.close(); // the gateway accepted it, and only its answer was lost
      else this.#tell(error);
    } finally {
      this.#sending = this.button.disabled = false;
      if (document.activeElement === document.body) this.button.focus(); // disabling the button removed the focus
      refocus();
    }
  }

  #tell(error) {
    this.trouble.replaceChildren(sentence(error));
    this.trouble.hidden = false;
  }
}

function field(call) {
  const name = call.function?.name ?? call.name ?? call.id;
  const input = make("input", { name: call.id ?? call.toolCallId, value: "ok", autocomplete: "off" });
  return make("label", {}, say("span", "action", { "data-name": name }), make("code", {}, call.function?.arguments ?? ""), input);
}
