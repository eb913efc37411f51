/** One turn on the page: the question, and the answer as its events build it up. It knows no transport. */
import { fold } from "../client/coze-gateway.js";
import { AnswerText } from "./answer-text.js";
import { isText, structured } from "./cards.js";
import { copyButton, iconButton, make, say, sayAnew } from "./dom.js";
import { t, timeWords } from "./language.js";
import { spoken } from "./media.js";
import { ToolForm } from "./tool-form.js";

const GOES_ON = new Set(["message", "reasoning", "tool", "audio", "suggestion", "completed"]);
const STILL_MS = 10_000; // of nothing: long enough to wonder whether anything will come
const PRESSING_HELPS_MS = 1_500; // a shorter wait is over before a hand is there
const ASKED_TO_WAIT = /^reason_(?:rate_limited|too_many_connections|overloaded|draining|told)$/;
const PENCIL = "m4 20 1-4L16 5l3 3L8 19zm10-13 3 3";

export class TurnView {
  text = "";
  state = "waiting"; // then running, perhaps unheard for a while, and at last completed, cancelled or error
  #above = ""; // the text of those of its answers that stand above a card
  #recalled = ""; // the text of the events recalled so far
  #thoughts = "";
  #audio = [];
  #suggested = new Set();
  #calls = []; // the names of tools that have not answered
  #form; // for the results of tools
  #countdown;
  #stopping = false;
  #seen = false; // whether something of the answer's text can be seen
  #heardAt = performance.now();

  /** @param {{retry: (view: TurnView) => void, ask: (text: string) => void, edit: (text: string) => void,
   *   takeBack: (view: TurnView) => void, tryNow: () => void,
   *   giveOutputs: (turnId: string, outputs: object[]) => Promise<void>}} page what the turn's buttons do */
  constructor(question, page) {
    this.question = question;
    this.page = page;
    this.asked = make("div", { class: "bubble asked" }, say("span", "you", { class: "visually-hidden" }), make("p", { dir: "auto" }, question));
    const edit = iconButton("edit", PENCIL, { class: "edit", onclick: () => page.edit(question) });
    this.thinking = make("details", { class: "thinking", hidden: true }, say("summary", "thinking"), make("p", { dir: "auto" }));
    this.tools = make("ul", { class: "tools", hidden: true });
    this.notice = make("div", { class: "notice", hidden: true }, make("span", { role: "status" }));
    this.content = make("div", { class: "content" });
    this.dots = make("div", { class: "dots", "aria-hidden": "true" }, make("i"), make("i"), make("i"));
    this.extras = make("div", { class: "extras" });
    this.blank = say("p", "no_text", { class: "hint", hidden: true });
    this.failure = make("div", { class: "failure", hidden: true });
    this.foot = make("footer", { class: "foot", hidden: true });
    this.suggestions = make("div", { class: "suggestions", role: "group", "data-t-label": "suggestions", "aria-label": t("suggestions"), hidden: true });
    this.answer = make("div", { class: "bubble answer" }, say("span", "bot", { class: "visually-hidden" }), this.thinking, this.tools,
      this.content, this.extras, this.blank, this.dots, this.notice, this.failure, this.foot);
    this.element = make("article", { class: "turn" }, make("div", { class: "question" }, edit, this.asked), this.answer, this.suggestions);
    this.typed = new AnswerText(this.content);
    this.#become("waiting");
    this.#watch();
  }

  /** Undefined until the gateway has taken the question. */
  get turnId() { return this.element.dataset.turn; }

  set turnId(id) { this.element.dataset.turn = id; }

  get over() { return ["completed", "cancelled", "error"].includes(this.state); }

  /** What went wrong, in words. */
  get why() { return this.failure.querySelector("p")?.textContent; }

  apply(event) {
    this.text = fold(this.text, event);
    this.#heardAt = performance.now();
    if (this.notice.dataset.says === "still_waiting") this.#tell();
    if (this.state === "unheard") this.#become("running");
    if (GOES_ON.has(event.event)) this.#form?.goesOn();
    const act = this[`on_${event.event}`];
    if (act) act.call(this, event);
  }

  on_started({ turnId }) {
    this.turnId = turnId;
    this.#thoughts = "";
    this.#audio = [];
    this.#suggested.clear();
    this.#calls = [];
    this.tools.replaceChildren();
    for (const extras of this.answer.querySelectorAll(".extras")) extras.replaceChildren();
    this.suggestions.replaceChildren();
    this.#show();
    this.#become("running");
  }

  on_message(event) {
    if (!this.#stopping) this.#tell();
    if (isText(event)) {
      if (!event.replace) this.#standsBelow(this.text.length - event.content.length, event.content);
      this.#show();
    } else this.extras.append(structured(event.content, event.contentType));
    this.#become("running");
  }

  on_reasoning({ content }) {
    this.#thoughts += content;
    this.thinking.hidden = false;
    this.thinking.lastChild.textContent = this.#thoughts;
  }

  on_tool({ phase, name, content }) {
    this.tools.hidden = false;
    if (phase === "call") this.#calls.push(name);
    const called = phase === "call" ? name : name || this.#answering();
    const line = called ? say("summary", `tool_${phase}`, { "data-name": called }) : say("summary", `tool_${phase}_unnamed`);
    this.tools.append(make("li", { class: `tool-${phase}` }, make("details", {}, line, make("pre", { tabindex: "0" }, content))));
  }

  /** An output says nothing of its call: it is clear whose it is while one tool alone has not answered. */
  #answering() {
    const names = new Set(this.#calls);
    const called = this.#calls.shift();
    return names.size === 1 ? called : undefined;
  }

  on_audio({ content }) {
    this.#audio.push(content);
  }

  on_suggestion({ content }) {
    if (this.#suggested.has(content)) return;
    this.#suggested.add(content);
    this.suggestions.hidden = false;
    this.suggestions.append(make("button", { type: "button", class: "chip", dir: "auto", onclick: () => this.page.ask(content) }, content));
  }

  /** The gateway has it, and begins with it when the answer before it has ended. */
  queued() {
    this.#tell("notice_queued", {}, say("button", "take_back", { type: "button", class: "quiet-button", onclick: () => this.page.takeBack(this) }));
  }

  on_notice({ code, attempt }) {
    this.#tell(`notice_${code}`, { "data-attempt": attempt ?? 1 });
  }

  on_action_required({ toolCalls }) {
    this.#form?.close();
    this.#form = new ToolForm(toolCalls, (outputs) => this.page.giveOutputs(this.turnId, outputs));
    this.extras.append(this.#form.element);
  }

  on_reset({ status }) {
    if (status !== "action_required") this.#form?.goesOn();
    this.#tell("reset_notice");
    this.#show();
    this.#become("running");
  }

  on_completed({ recovered }) {
    this.#end("completed");
    if (recovered) this.element.classList.add("recovered");
  }

  on_cancelled() {
    this.#end("cancelled");
  }

  on_error({ error, code, upstream }) {
    this.fail(error ? make("span", {}, error) : say("span", "says_failed"), { code, upstream });
  }

  /** Nothing comes for now: why, and in how many milliseconds it is tried again. Without a key: it comes again. */
  waits(key, delayMs) {
    if (this.over || this.#stopping) return;
    if (!key) {
      if (this.notice.dataset.says?.startsWith("reason_")) this.#tell();
      return;
    }
    const helps = delayMs > PRESSING_HELPS_MS && !ASKED_TO_WAIT.test(key);
    this.#tell(key, {}, helps && say("button", "try_now", { type: "button", class: "quiet-button", onclick: () => this.page.tryNow() }));
    if (delayMs !== undefined) this.#countDown(performance.now() + delayMs);
  }

  /** Somebody pressed Stop. `heard` is false when the gateway could not be told. */
  stopping(heard = true) {
    this.#stopping = heard;
    this.#tell(heard ? "stopping" : "stop_failed");
  }

  /** Shows what went wrong, in `sentence`'s words, and offers to ask again, unless the question itself was wrong. */
  fail(sentence, { code, wrong = false, upstream } = {}) {
    this.#end("error");
    const trace = [code, upstream?.code, upstream?.logId].filter(Boolean).join(" · ");
    this.#showFailure(sentence, trace);
    if (!wrong) this.failure.append(this.#retryButton());
  }

  #retryButton() {
    return say("button", "retry", { type: "button", class: "quiet-button retry", onclick: () => this.page.retry(this) });
  }

  /** The gateway has taken it and may go on with it, but this page may not hear it: says why, until it is heard again. */
  unheard(sentence, code) {
    this.#tell();
    this.#become("unheard");
    this.#showFailure(sentence, code);
  }

  /** What the turn's own figures were, under its answer. */
  figures({ firstMs, totalMs, characters, transport }) {
    if (this.state === "error" && !this.text) return;
    const parts = transport ? [transport === "whole" ? say("span", "transport_whole") : transport] : [];
    for (const ms of [firstMs, totalMs].filter((known) => known !== undefined)) {
      const [key, n] = timeWords(ms);
      parts.push(say("span", key, { "data-n": n }));
    }
    const size = characters ? [say("span", "characters_n", { "data-n": characters })] : [];
    this.foot.hidden = false;
    this.foot.replaceChildren(make("span", {}, ...parts.flatMap((part) => [" · ", part]).slice(1)), ...size);
    const acts = [...(this.state === "cancelled" ? [this.#retryButton()] : []), ...(this.text ? [copyButton(() => this.text)] : [])];
    if (acts.length) this.foot.append(make("span", { class: "acts" }, ...acts));
    if (this.element.classList.contains("recovered")) this.foot.prepend(say("span", "recovered", { class: "badge" }));
    if (this.state === "cancelled") this.foot.prepend(say("span", "stopped", { class: "badge plain" }));
  }

  /** An answer of earlier, from the conversation's record. */
  recall(content, status) {
    this.text = content;
    this.#end({ failed: "error", cancelled: "cancelled" }[status] ?? "completed", true);
    if (status === "failed") this.fail(say("span", "says_failed"));
    this.figures({});
  }

  /** What else the record of a turn of earlier has, beside its answer. */
  recallMore({ reasoning, suggestions, error }) {
    if (reasoning) this.on_reasoning({ content: reasoning.slice(this.#thoughts.length) });
    for (const content of suggestions ?? []) this.on_suggestion({ content });
    if (error?.error) this.fail(make("span", {}, error.error), error);
  }

  /** An event of a turn of earlier: shows what its record lacks. */
  recallEvent(event) {
    const start = this.#recalled.length;
    this.#recalled = fold(this.#recalled, event);
    if (event.event === "message" && !isText(event)) this.extras.append(structured(event.content, event.contentType));
    else if (event.event === "tool" || event.event === "audio") this[`on_${event.event}`](event);
    else if (event.event === "message" && !event.replace && this.text.startsWith(this.#recalled)) {
      if (!this.#standsBelow(start, event.content, true)) return;
      this.#show();
      this.typed.finish(true);
    }
  }

  /** All of its events that are kept were recalled. */
  recalled() {
    this.speak();
    this.#sayIfBlank();
  }

  /** Plays what was spoken, once all of it is there. */
  speak() {
    if (!this.#audio.length) return;
    try {
      this.extras.append(spoken(this.#audio));
    } catch {
      // Not base64: there is nothing to play.
    }
    this.#audio = [];
  }

  #showFailure(sentence, trace) {
    this.failure.hidden = false;
    this.failure.replaceChildren(make("p", {}, sentence), ...(trace ? [make("small", {}, trace)] : []));
  }

  /** Shows the text. Where it is told anew, and its parts are others, it is one again, below all cards. */
  #show() {
    if (this.#above && !this.text.startsWith(this.#above)) {
      this.#above = "";
      for (const part of this.answer.querySelectorAll(".content")) if (part !== this.content) part.remove();
    }
    this.typed.set(this.text.slice(this.#above.length));
  }

  /**
   * Makes room for text from `start` on below the cards that came before it, where an answer begins: at a blank line, or
   * the beginning. In the middle of one, the card was only quicker. @returns whether there was a card
   */
  #standsBelow(start, content, atOnce) {
    if (!this.extras.hasChildNodes() || (start && !content.startsWith("\n\n"))) return false;
    const above = this.extras;
    this.extras = make("div", { class: "extras" });
    if (start) {
      this.typed.set(this.text.slice(this.#above.length, start));
      this.typed.finish(atOnce);
      this.#above = this.text.slice(0, start);
      this.content = make("div", { class: "content" });
      this.typed = new AnswerText(this.content);
    }
    above.after(this.content, this.extras);
    return true;
  }

  /** An answer without anything to show is no empty bubble. */
  #sayIfBlank() {
    const shows = this.text.trim() || !this.thinking.hidden || !this.tools.hidden || this.answer.querySelector(".extras > *");
    this.blank.hidden = this.state !== "completed" || Boolean(shows);
  }

  #end(state, atOnce = false) {
    this.#tell();
    this.#show();
    this.typed.finish(atOnce);
    this.#form?.close();
    this.#form = undefined;
    this.speak();
    this.#become(state);
    this.#sayIfBlank();
  }

  /** Says something of the waiting, with a button that may help; without a key, nothing. */
  #tell(key, values = {}, button = undefined) {
    clearInterval(this.#countdown);
    if (!key && this.notice.hidden) return;
    const [words] = this.notice.children;
    this.notice.hidden = !key;
    this.notice.dataset.says = key ?? "";
    words.replaceChildren(...(key ? [say("span", key, values)] : []));
    this.notice.replaceChildren(words, ...(button ? [button] : []));
  }

  #countDown(until) {
    const left = () => Math.max(Math.ceil((until - performance.now()) / 1_000), 1);
    const words = say("span", "again_in", { "data-n": left(), "aria-hidden": "true" }); // read out each second it would be noise
    this.notice.firstElementChild.append(" ", words);
    this.#countdown = setInterval(() => {
      words.dataset.n = left();
      sayAnew(words, "again_in");
    }, 1_000);
  }

  #become(state) {
    if (this.state === state && this.dots.hidden) return; // the hot path: one more piece
    this.state = state;
    this.element.dataset.state = state;
    this.answer.setAttribute("aria-busy", String(!this.over));
    if (state !== "error") this.failure.hidden = true;
    this.#placeDots();
    const summary = this.thinking.querySelector("summary");
    sayAnew(summary, this.over || this.text ? "thought" : "thinking");
  }

  /** There are dots until something can be seen: the first piece may be a space, or be held back. */
  #placeDots() {
    this.dots.hidden = this.over || this.state === "unheard" || this.#seen;
  }

  /** Looks for the first thing that can be seen, and whether anything comes at all, until the turn is over. */
  #watch() {
    const sight = new MutationObserver(() => {
      this.#seen = [...this.answer.querySelectorAll(".content")].some((part) => part.textContent.trim() || part.querySelector("img, hr"));
      if (!this.#seen) return;
      sight.disconnect();
      this.#placeDots();
    });
    sight.observe(this.answer, { subtree: true, childList: true, characterData: true });
    const looking = setInterval(() => {
      if (this.over || !this.element.isConnected) return clearInterval(looking);
      const silent = performance.now() - this.#heardAt > STILL_MS && this.state !== "unheard" && !this.#form?.element.isConnected;
      if (silent && this.notice.hidden) this.#tell("still_waiting");
    }, 1_000);
  }
}
