/** One turn on the page: the question, and the answer as its events build it up. It knows no transport. */
import { fold } from "../client/coze-gateway.js";
import { AnswerText } from "./answer-text.js";
import { copyButton, make, say } from "./dom.js";
import { formatNumber, formatTime, t } from "./language.js";
import { spoken, structured } from "./media.js";

export class TurnView {
  turnId;
  text = "";
  state = "waiting"; // then running, and at last completed, cancelled or error
  #thoughts = "";
  #audio = [];
  #suggested = new Set();

  /** @param {{ask: (text: string) => void, giveOutputs: (turnId: string, outputs: object[]) => Promise<void>}} page
   *   what the turn's buttons do */
  constructor(question, page) {
    this.question = question;
    this.page = page;
    this.asked = make("div", { class: "bubble asked" }, say("span", "you", { class: "visually-hidden" }), make("p", {}, question));
    this.thinking = make("details", { class: "thinking", hidden: true }, say("summary", "thinking"), make("p"));
    this.tools = make("ul", { class: "tools", hidden: true });
    this.notice = make("p", { class: "notice", hidden: true });
    this.content = make("div", { class: "content" });
    this.dots = make("div", { class: "dots", "aria-hidden": "true" }, make("i"), make("i"), make("i"));
    this.extras = make("div", { class: "extras" });
    this.failure = make("div", { class: "failure", hidden: true });
    this.foot = make("footer", { class: "foot", hidden: true });
    this.suggestions = make("div", { class: "suggestions", role: "group", "data-t-label": "suggestions", "aria-label": t("suggestions"), hidden: true });
    this.answer = make("div", { class: "bubble answer" }, say("span", "bot", { class: "visually-hidden" }), this.thinking, this.tools,
      this.content, this.extras, this.dots, this.notice, this.failure, this.foot);
    this.element = make("article", { class: "turn" }, this.asked, this.answer, this.suggestions);
    this.typed = new AnswerText(this.content);
    this.#become("waiting");
  }

  get over() { return ["completed", "cancelled", "error"].includes(this.state); }

  apply(event) {
    this.text = fold(this.text, event);
    const act = this[`on_${event.event}`];
    if (act) act.call(this, event);
  }

  on_started({ turnId }) {
    this.turnId = turnId;
    this.element.dataset.turn = turnId;
    this.#thoughts = "";
    this.#audio = [];
    this.#suggested.clear();
    this.tools.replaceChildren();
    this.extras.replaceChildren();
    this.suggestions.replaceChildren();
    this.typed.set("");
    this.#become("running");
  }

  on_message({ content, contentType }) {
    this.#tell();
    if (contentType === undefined || contentType === "text") this.typed.set(this.text);
    else this.extras.append(structured(content, contentType));
    this.#become("running");
  }

  on_reasoning({ content }) {
    this.#thoughts += content;
    this.thinking.hidden = false;
    this.thinking.lastChild.textContent = this.#thoughts;
  }

  on_tool({ phase, name, content }) {
    this.tools.hidden = false;
    const line = say("summary", phase === "call" ? "tool_call" : "tool_output", { "data-name": name || "?" });
    this.tools.append(make("li", { class: `tool-${phase}` }, make("details", {}, line, make("pre", { tabindex: "0" }, content))));
  }

  on_audio({ content }) {
    this.#audio.push(content);
  }

  on_suggestion({ content }) {
    if (this.#suggested.has(content)) return;
    this.#suggested.add(content);
    this.suggestions.hidden = false;
    this.suggestions.append(make("button", { type: "button", class: "chip", onclick: () => this.page.ask(content) }, content));
  }

  on_notice({ code, attempt }) {
    this.#tell(`notice_${code}`, { "data-attempt": attempt ?? 1 });
  }

  on_action_required({ toolCalls }) {
    const form = make("form", { class: "outputs" });
    for (const call of toolCalls) {
      const name = call.function?.name ?? call.name ?? call.id;
      const input = make("input", { name: call.id ?? call.toolCallId, value: "ok", autocomplete: "off" });
      form.append(make("label", {}, say("span", "action", { "data-name": name }), make("code", {}, call.function?.arguments ?? ""), input));
    }
    form.append(say("button", "action_send", { class: "primary" }));
    form.addEventListener("submit", async (submitted) => {
      submitted.preventDefault();
      const outputs = [...new FormData(form)].map(([toolCallId, output]) => ({ toolCallId, output }));
      await this.page.giveOutputs(this.turnId, outputs);
      form.remove();
    });
    this.extras.append(form);
  }

  on_reset(event) {
    this.#tell("reset_notice");
    this.typed.set(this.text);
    this.#become("running", event);
  }

  on_completed({ recovered }) {
    this.#end("completed");
    if (recovered) this.element.classList.add("recovered");
  }

  on_cancelled() {
    this.#end("cancelled");
  }

  on_error({ error, code, retryable, upstream }) {
    this.#end("error");
    this.fail(error, { code, retryable, upstream });
  }

  /** Shows what went wrong, and offers to ask again where that may help. */
  fail(sentence, { code, retryable = true, upstream } = {}) {
    this.#end("error");
    const trace = [code, upstream?.code, upstream?.logId].filter(Boolean).join(" · ");
    this.failure.hidden = false;
    this.failure.replaceChildren(make("p", {}, sentence), ...(trace ? [make("small", {}, trace)] : []));
    if (retryable) this.failure.append(say("button", "retry", { type: "button", class: "quiet-button" }));
    this.failure.querySelector("button")?.addEventListener("click", () => this.page.ask(this.question));
  }

  /** What the turn's own figures were, under its answer. */
  figures({ firstMs, totalMs, characters, transport }) {
    if (this.state === "error" && !this.text) return;
    const times = [firstMs, totalMs].filter((ms) => ms !== undefined).map(formatTime);
    const size = characters ? [say("span", "characters_n", { "data-n": formatNumber(characters) })] : [];
    this.foot.hidden = false;
    this.foot.replaceChildren(make("span", {}, [transport, ...times].filter(Boolean).join(" · ")), ...size, copyButton(() => this.text));
    if (this.element.classList.contains("recovered")) this.foot.prepend(say("span", "recovered", { class: "badge" }));
    if (this.state === "cancelled") this.foot.prepend(say("span", "stopped", { class: "badge plain" }));
  }

  /** An answer of earlier, from the conversation's record. */
  recall(content, status) {
    this.text = content;
    this.typed.set(content);
    const failed = status === "failed";
    this.#end(failed ? "error" : status === "cancelled" ? "cancelled" : "completed", true);
    if (failed) this.fail(t("says_failed"));
    this.figures({});
  }

  #end(state, atOnce = false) {
    this.#tell();
    this.typed.set(this.text);
    this.typed.finish(atOnce);
    if (this.#audio.length) {
      try {
        this.extras.append(spoken(this.#audio));
      } catch {
        // Not base64: there is nothing to play.
      }
      this.#audio = [];
    }
    this.#become(state);
  }

  #tell(key, values = {}) {
    if (!key && this.notice.hidden) return;
    this.notice.hidden = !key;
    if (key) this.notice.replaceChildren(say("span", key, values));
  }

  #become(state) {
    if (this.state === state && this.dots.hidden) return; // the hot path: one more piece
    this.state = state;
    this.element.dataset.state = state;
    this.answer.setAttribute("aria-busy", String(!this.over));
    this.dots.hidden = this.over || this.text !== "";
    const summary = this.thinking.querySelector("summary");
    summary.dataset.t = this.over || this.text ? "thought" : "thinking";
    summary.textContent = t(summary.dataset.t);
  }
}
