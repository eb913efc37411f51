/** One turn on the page: the question, and the answer that its events build up. It knows nothing of transports. */
import { fold } from "../client/coze-gateway.js";
import { AnswerBody } from "./answer-body.js";
import { isText, structured } from "./cards.js";
import { iconButton, make, say, sayAnew } from "./dom.js";
import { acts, figuresShown, retryButton } from "./foot.js";
import { t } from "./language.js";
import { spoken } from "./media.js";
import { Notice } from "./notice.js";
import { ToolForm } from "./tool-form.js";
import { ToolList } from "./tool-list.js";

const GOES_ON = new Set(["message", "reasoning", "tool", "audio", "suggestion", "completed"]);
const STILL_MS = 10_000; // after so long without an event, people wonder whether anything will come
const PRESSING_HELPS_MS = 1_500; // a shorter pause is over before anybody can press the button
const ASKED_TO_WAIT = /^reason_(?:rate_limited|too_many_connections|overloaded|draining|told)$/;
const PENCIL = "m4 20 1-4L16 5l3 3L8 19zm10-13 3 3";

export class TurnView {
  text = "";
  state = "waiting"; // then running, sometimes unheard for a while, and finally completed, cancelled or error
  #recalled = ""; // the text of the events recalled so far
  #thoughts = "";
  #audio = [];
  #suggested = new Set();
  #form; // for the results of tools
  #stopping = false;
  #seen = false; // whether something of the answer's text can be seen
  #heardAt = performance.now();

  /** @param {{retry: (view: TurnView) => void, ask: (text: string) => void, edit: (text: string) => void,
   *   takeBack: (view: TurnView) => void, tryNow: () => void,
   *   giveOutputs: (turnId: string, outputs: object[]) => Promise<void>, giveFeedback: (turnId: string, feedback: string)
   *   => Promise<boolean>}} page what the turn's buttons do */
  constructor(question, page) {
    this.question = question;
    this.page = page;
    this.asked = make("div", { class: "bubble asked" }, say("span", "you", { class: "visually-hidden" }), make("p", { dir: "auto" }, question));
    const edit = iconButton("edit", PENCIL, { class: "edit", onclick: () => page.edit(question) });
    this.thinking = make("details", { class: "thinking", hidden: true }, say("summary", "thinking"), make("p", { dir: "auto" }));
    this.tools = new ToolList();
    this.notice = new Notice();
    this.body = new AnswerBody();
    this.dots = make("div", { class: "dots", "aria-hidden": "true" }, make("i"), make("i"), make("i"));
    this.blank = say("p", "no_text", { class: "hint", hidden: true });
    this.failure = make("div", { class: "failure", hidden: true });
    this.foot = make("footer", { class: "foot", hidden: true });
    this.suggestions = make("div", { class: "suggestions", role: "group", "data-t-label": "suggestions", "aria-label": t("suggestions"), hidden: true });
    this.answer = make("div", { class: "bubble answer" }, say("span", "bot", { class: "visually-hidden" }), this.thinking,
      this.tools.element, ...this.body.elements, this.blank, this.dots, this.notice.element, this.failure, this.foot);
    this.element = make("article", { class: "turn" }, make("div", { class: "question" }, edit, this.asked), this.answer, this.suggestions);
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
    if (this.notice.says === "still_waiting") this.notice.clear();
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
    this.tools.clear();
    this.body.removeCards();
    this.suggestions.replaceChildren();
    this.body.show(this.text);
    this.#become("running");
  }

  on_message(event) {
    if (!this.#stopping) this.notice.clear();
    if (isText(event)) {
      if (!event.replace) this.body.makeRoom(this.text, this.text.length - event.content.length, event.content);
      this.body.show(this.text);
    } else this.body.addCard(structured(event.content, event.contentType));
    this.#become("running");
  }

  on_reasoning({ content }) {
    this.#thoughts += content;
    this.thinking.hidden = false;
    this.thinking.lastChild.textContent = this.#thoughts;
  }

  on_tool(event) {
    this.tools.add(event);
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

  /** The gateway has the question, and starts its turn when the answer before it has ended. */
  queued() {
    this.notice.tell("notice_queued", { button: quietButton("take_back", () => this.page.takeBack(this)) });
  }

  on_notice({ code, attempt }) {
    this.notice.tell(`notice_${code}`, { values: { "data-attempt": attempt ?? 1 } });
  }

  on_action_required({ toolCalls }) {
    this.#form?.close();
    this.#form = new ToolForm(toolCalls, (outputs) => this.page.giveOutputs(this.turnId, outputs));
    this.body.addCard(this.#form.element);
  }

  on_reset({ status }) {
    if (status !== "action_required") this.#form?.goesOn();
    this.notice.tell("reset_notice");
    this.body.show(this.text);
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

  /**
   * Says why no events arrive, in the words of `key`, and in how many milliseconds the next attempt follows. Without a key
   * events arrive again.
   */
  waits(key, delayMs) {
    if (this.over || this.#stopping) return;
    if (!key) {
      if (this.notice.says.startsWith("reason_")) this.notice.clear();
      return;
    }
    const helps = delayMs > PRESSING_HELPS_MS && !ASKED_TO_WAIT.test(key);
    this.notice.tell(key, { button: helps && quietButton("try_now", () => this.page.tryNow()), delayMs });
  }

  /** Somebody pressed Stop. `heard` is false when the gateway could not be told of it. */
  stopping(heard = true) {
    this.#stopping = heard;
    this.notice.tell(heard ? "stopping" : "stop_failed");
  }

  /** Shows what went wrong in the words of `sentence`, and offers to ask again unless the question itself was wrong. */
  fail(sentence, { code, wrong = false, upstream } = {}) {
    this.#end("error");
    const trace = [code, upstream?.code, upstream?.logId].filter(Boolean).join(" · ");
    this.#showFailure(sentence, trace);
    if (!wrong) this.failure.append(retryButton(this));
  }

  /** The gateway may go on with the turn, but this page is not allowed to hear it. Says why, until it is heard again. */
  unheard(sentence, code) {
    this.notice.clear();
    this.#become("unheard");
    this.#showFailure(sentence, code);
  }

  /** Shows the turn's own figures under its answer, and what can be done with it. */
  figures(summary) {
    if (this.state === "error" && !this.text) return;
    this.foot.hidden = false;
    this.foot.replaceChildren(...figuresShown(summary), ...acts(this));
    if (this.element.classList.contains("recovered")) this.foot.prepend(say("span", "recovered", { class: "badge" }));
    if (this.state === "cancelled") this.foot.prepend(say("span", "stopped", { class: "badge plain" }));
  }

  /** Shows an earlier answer, from the conversation's record. */
  recall(content, status) {
    this.text = content;
    this.#end({ failed: "error", cancelled: "cancelled" }[status] ?? "completed", true);
    if (status === "failed") this.fail(say("span", "says_failed"));
    this.figures({});
  }

  /** Shows what the record of an earlier turn holds besides the answer. */
  recallMore({ reasoning, suggestions, error }) {
    if (reasoning) this.on_reasoning({ content: reasoning.slice(this.#thoughts.length) });
    for (const content of suggestions ?? []) this.on_suggestion({ content });
    if (error?.error) this.fail(make("span", {}, error.error), error);
  }

  /** Shows the parts of an earlier turn's event that the turn's record lacks. */
  recallEvent(event) {
    const start = this.#recalled.length;
    this.#recalled = fold(this.#recalled, event);
    if (event.event === "message" && !isText(event)) this.body.addCard(structured(event.content, event.contentType));
    else if (event.event === "tool" || event.event === "audio") this[`on_${event.event}`](event);
    else if (event.event === "message" && !event.replace && this.text.startsWith(this.#recalled)) {
      if (!this.body.makeRoom(this.text, start, event.content, true)) return;
      this.body.show(this.text);
      this.body.finish(true);
    }
  }

  /** `recallEvent` was given all events of an earlier turn that are kept. */
  recalled() {
    this.speak();
    this.#sayIfBlank();
  }

  /** Plays what was spoken, once all of it is there. */
  speak() {
    if (!this.#audio.length) return;
    try {
      this.body.addCard(spoken(this.#audio));
    } catch {
      // Not base64: there is nothing to play.
    }
    this.#audio = [];
  }

  #showFailure(sentence, trace) {
    this.failure.hidden = false;
    this.failure.replaceChildren(make("p", {}, sentence), ...(trace ? [make("small", {}, trace)] : []));
  }

  /** An answer that shows nothing says so, because an empty bubble would look broken. */
  #sayIfBlank() {
    const shows = this.text.trim() || !this.thinking.hidden || this.tools.isShown || this.body.hasCards;
    this.blank.hidden = this.state !== "completed" || Boolean(shows);
  }

  #end(state, atOnce = false) {
    this.notice.clear();
    this.body.show(this.text);
    this.body.finish(atOnce);
    this.#form?.close();
    this.#form = undefined;
    this.speak();
    this.#become(state);
    this.#sayIfBlank();
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

  /** Shows dots until something of the text can be seen. */
  #placeDots() {
    this.dots.hidden = this.over || this.state === "unheard" || this.#seen;
  }

  /** Looks for the first thing that can be seen, and says so when nothing comes for a while, until the turn is over. */
  #watch() {
    this.body.onFirstSight(() => {
      this.#seen = true;
      this.#placeDots();
    });
    const looking = setInterval(() => {
      if (this.over || !this.element.isConnected) return clearInterval(looking);
      const silent = performance.now() - this.#heardAt > STILL_MS && this.state !== "unheard" && !this.#form?.element.isConnected;
      if (silent && !this.notice.isShown) this.notice.tell("still_waiting");
    }, 1_000);
  }
}

const quietButton = (key, onclick) => say("button", key, { type: "button", class: "quiet-button", onclick });
