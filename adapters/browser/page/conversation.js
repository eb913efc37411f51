/**
 * The conversation that the page shows: asks by `chat()`, and listens by `connect()` while it asks nothing, so that an
 * answer begun in another tab, or before a reload, appears here too. One connection at a time: browsers allow six to a
 * host over HTTP/1.1, for all tabs together.
 */
import { chat, connect } from "../client/coze-gateway.js";
import { request, sentence } from "./api.js";
import { make, say } from "./dom.js";
import { History } from "./history.js";
import { language } from "./language.js";
import { memory, tabMemory } from "./memory.js";
import { reasonKey } from "./reasons.js";
import { TurnView } from "./turn-view.js";

const KEY = "gateway.conversation";
const ASKING = "gateway.asking"; // in this tab alone: a question that nothing was heard of yet
const ASK_AGAIN_MS = 600_000; // a tab that is opened again on another day asks nothing by itself
const RECALLED = 20; // how many turns, the newest, are asked for all that is kept of them
const ID = /^conv_[0-9a-f-]{36}$/;

export class Conversation {
  id;
  stopping = false;
  #line; // the open `chat` or `connect`
  #opened = false; // whether that line has a connection
  #history;
  #turns = new Map();
  #current; // the turn that events belong to now
  #asked; // the turn that this page is asking for
  #queued = new Set(); // turns that wait for the one before them

  /**
   * @param {object} page
   * @param {HTMLElement} page.log where turns go
   * @param {() => object} page.settings `baseUrl`, `userId`, `botId`, `shopId`, `token`, `transports`, `streaming`, `network`
   * @param {() => boolean} page.isTyping whether somebody is writing a question
   * @param {import("./figures.js").Figures} page.figures
   * @param {(state: string, detail: object) => void} page.onState what the connection does; `reason` is a key of words
   * @param {(words: Node) => void} page.onTrouble what somebody must be told
   * @param {() => void} page.onTokenWanted the gateway takes no request without another token
   * @param {(text: string) => void} page.edit puts a question into the field
   * @param {() => void} page.onChange something began or ended
   * @param {() => void} page.onTurn the log has one more turn
   * @param {(change: () => void) => void} page.keepPlace makes a change above what is being read
   */
  constructor(page) {
    this.page = page;
    this.buttons = {
      ask: (text) => this.ask(text),
      edit: (text) => page.edit(text),
      retry: (view) => this.#retry(view),
      takeBack: (view) => this.#takeBack(view),
      tryNow: () => this.tryNow(),
      giveOutputs: (turnId, toolOutputs) => this.#giveOutputs(turnId, toolOutputs),
    };
    addEventListener("hashchange", () => {
      const id = location.hash.slice(1);
      if (ID.test(id) && id !== this.id) this.open(id);
      if (!id && this.id) this.#blank();
    });
    addEventListener("storage", ({ key, newValue }) => {
      // A tab in which nothing has happened yet follows the one where something does; any other stays where it is.
      const blank = !this.id && !this.running && !page.log.childElementCount && !page.isTyping();
      if (key === KEY && blank && ID.test(newValue ?? "")) this.open(newValue);
    });
  }

  /** The conversation of before the reload, if there was one. */
  resume() {
    const id = [location.hash.slice(1), memory.recall(KEY)].find((known) => ID.test(known ?? ""));
    const asking = JSON.parse(tabMemory.recall(ASKING) ?? "null");
    const goesOn = asking !== null && Date.now() - asking.at < ASK_AGAIN_MS;
    if (goesOn && !asking.id && !location.hash) return this.ask(asking.question, asking);
    if (!id) return undefined;
    const opened = this.open(id);
    // What runs already is that very question: it was taken after all.
    return goesOn && asking.id === id ? opened.then(() => !this.running && this.ask(asking.question, asking)) : opened;
  }

  /** Whether an answer is being given that this page hears of. */
  get running() {
    if (this.#asked) return true;
    return this.#current !== undefined && !this.#current.over && this.#current.state !== "unheard";
  }

  /** Whether a question that is asked now has to wait for another one's answer. */
  get busy() { return this.running || this.#queued.size > 0; }

  get hasEarlier() { return this.#history?.hasMore === true; }

  get position() { return this.#line?.position; }

  /** A conversation that is new; the one before is a step back in the browser's history. */
  begin() {
    if (this.id) history.pushState(null, "", location.pathname + location.search);
    this.#blank();
  }

  #blank() {
    this.#leave();
    this.#remember(undefined);
    this.page.onState("idle", {});
    this.page.onChange();
  }

  async open(id) {
    this.#leave();
    this.#remember(id);
    const recalled = this.#recall(new History(id, this.page.settings));
    this.#listen();
    await recalled;
  }

  /** Somebody gave a token: tries anew what was refused without. */
  async signedIn() {
    if (!this.id || this.#asked) return;
    const recalled = this.#history ? undefined : this.#recall(new History(this.id, this.page.settings));
    this.#listen(this.position);
    await recalled;
  }

  /** `again`: what was kept of a question before a reload; its key sees to it that the gateway starts nothing twice. */
  ask(question, again) {
    if (!question.trim()) return false;
    if (this.busy) return this.#queue(question, again);
    const { fault, ...settings } = this.page.settings();
    const message = again?.message ?? withFault(fault, question);
    const key = again?.key ?? newKey();
    const onBusy = again?.onBusy;
    tabMemory.keep(ASKING, JSON.stringify({ id: this.id, question, message, key, onBusy, at: Date.now() }));
    const view = new TurnView(question, this.buttons);
    this.page.log.append(view.element);
    this.page.onTurn();
    const heard = this.position; // a refused question must not cost what others say meanwhile
    this.#hangUp();
    this.#asked = view;
    this.page.figures.begin({ late: again?.at !== undefined }); // it was asked before a reload
    view.again = { message, key, onBusy, whose: this.#whose() };
    const line = chat({
      ...settings,
      message,
      onBusy,
      idempotencyKey: key,
      conversationId: this.id,
      language: language(),
      onEvent: (event) => {
        if (event.conversationId && !this.id) this.#remember(event.conversationId);
        if (event.event === "started") tabMemory.keep(ASKING);
        this.#apply(event, view);
      },
      onState: (state, detail) => this.#tell(line, state, detail),
    });
    this.#line = line;
    this.page.onChange();
    line.done.then((last) => this.#settle(view, last), (error) => this.#refused(line, view, error)).finally(() => {
      if (this.#line !== line) return; // the page has moved on to another conversation
      this.#asked = undefined;
      tabMemory.keep(ASKING);
      this.#listen(line.position ?? heard);
      this.page.onChange();
    });
    return true;
  }

  /** Hands the gateway a question while an answer runs. It starts by itself after that one, whatever becomes of this page. */
  #queue(question, again) {
    if (!this.id) return false; // the first question is on its way: there is no conversation to wait in
    const { fault, userId, botId, shopId, ...settings } = this.page.settings();
    const before = again?.onBusy ? again : undefined; // a key is for one body
    const message = before?.message ?? withFault(fault, question);
    const key = before?.key ?? newKey();
    const view = new TurnView(question, this.buttons);
    view.again = { message, key, onBusy: "queue", whose: this.#whose() };
    this.#queued.add(view);
    this.page.log.append(view.element);
    this.page.onTurn();
    this.page.onChange();
    this.#handOver(settings, view, { userId, botId, shopId, message, conversationId: this.id, onBusy: "queue" }, key);
    return true;
  }

  async #handOver(settings, view, body, key) {
    const here = () => this.#queued.has(view); // until the page has moved on to another conversation
    try {
      const { turnId } = await request(settings, "chat", { body, key, prefer: "wait=0" });
      if (!here()) return;
      const begun = this.#turns.get(turnId); // its first event was quicker than this answer
      if (begun) {
        this.#queued.delete(view);
        view.element.remove();
      } else {
        this.#turns.set(turnId, view);
        view.turnId = turnId;
        view.queued();
      }
    } catch (error) {
      if (!here()) return;
      this.#queued.delete(view);
      this.#fails(view, error);
    }
    this.page.onChange();
  }

  /** A question that has not begun is asked no more; it comes back into the field. */
  async #takeBack(view) {
    try {
      await request(this.page.settings(), `turns/${view.turnId}/cancel`, { body: {} });
    } catch (error) {
      return this.page.onTrouble(make("span", {}, say("span", "stop_failed"), " ", sentence(error)));
    }
    if (!this.#queued.delete(view)) return undefined; // it had just begun: its last event will say that it was stopped
    view.element.remove();
    this.page.edit(view.question);
    return this.page.onChange();
  }

  /** Tries at once what would be tried again in a while. */
  tryNow() { this.#line?.retryNow(); }

  /** Deletes the conversation at the gateway. Rejects when it may still be there. */
  async remove() {
    const { id } = this;
    await request(this.page.settings(), `conversations/${id}`, { method: "DELETE" }).catch((error) => {
      if (error.code !== "not_found") throw error;
    });
    if (this.id === id) this.#blank();
  }

  /** Ends the running answer. What is pressed shows at once, whether or not the gateway can be told. */
  async stop() {
    const view = this.#asked ?? this.#current;
    if (!this.running || this.stopping) return;
    this.stopping = true;
    view.stopping();
    this.page.onChange();
    try {
      if (this.#line?.cancel) await this.#line.cancel();
      else await request(this.page.settings(), `turns/${view.turnId}/cancel`, { body: {} });
    } catch (error) {
      if (view.over || !this.stopping) return;
      this.stopping = false;
      view.stopping(false);
      this.page.onTrouble(make("span", {}, say("span", "stop_failed"), " ", sentence(error)));
      this.page.onChange();
    }
  }

  /** Shows the turns before the first one that is shown. */
  async showEarlier() {
    await this.#recall(this.#history);
  }

  prefer(transports) { this.#line?.prefer(transports); }

  /** Leaves the present transport for the next one, in the middle of an answer. @returns which one */
  goOnElsewhere(liking) {
    const now = this.#line?.transport;
    const next = liking[(liking.indexOf(now) + 1) % liking.length];
    this.#line?.prefer([next, ...liking.filter((name) => name !== next)]);
    return next;
  }

  #listen(after) {
    if (!this.id) return;
    this.#hangUp();
    const { userId, botId, shopId, streaming, fault, ...settings } = this.page.settings();
    const line = connect({
      ...settings,
      scope: `conversations/${this.id}`,
      after,
      language: language(),
      onEvent: (event) => this.#apply(event),
      onState: (state, detail) => this.#tell(line, state, detail),
    });
    this.#line = line;
  }

  #tell(line, state, detail) {
    if (this.#line !== line) return;
    const { reason: why } = detail;
    const reason = state === "waiting" && why !== "hidden" ? reasonKey(why, this.#opened) : why;
    if (state === "open" || state === "waiting" || state === "offline") this.#opened = state === "open";
    const view = this.#asked ?? this.#current;
    if (state === "open") view?.waits();
    if (state === "offline") view?.waits("reason_offline");
    // In mid-answer the next try is mostly a blink away: words for it would only flicker.
    if (state === "waiting" && reason !== "hidden" && (!view?.turnId || detail.delayMs > 800)) view?.waits(reason, detail.delayMs);
    this.page.onState(state, { ...detail, reason });
    if (state !== "closed" || !detail.error || this.#asked) return;
    if (detail.error.code === "not_found") this.#isGone();
    else if (this.running) this.#losesSight(view, detail.error);
  }

  #apply(event, asked) {
    if (event.event === "started") {
      const recalled = this.#turns.get(event.turnId);
      const known = asked ?? recalled;
      // What was heard without a position (a whole answer has none) comes again, and is passed over.
      if (!asked && known?.over) return void (this.#current = undefined);
      if (asked && recalled && recalled !== asked) recalled.element.remove(); // taken before a reload, as it turns out
      this.#current = known ?? this.#show(event.input);
      this.#turns.set(event.turnId, this.#current);
      this.#queued.delete(this.#current);
      if (!asked) this.page.figures.begin({ heard: true, late: !this.#opened });
    } else if (event.event === "reset") {
      this.#current = asked ?? this.#turns.get(event.turnId) ?? this.#current;
    }
    const view = asked ?? this.#current;
    // After its end there is nothing but what comes twice.
    if (!view || (view.over && event.event !== "started" && event.event !== "reset")) return;
    const { figures } = this.page;
    const again = view.state === "unheard";
    if (again) figures.begin({ heard: true, late: true, text: view.text });
    view.apply(event);
    if (event.event === "message" || event.event === "reasoning") figures.piece(event);
    if (event.event === "reset") figures.reset(view.text);
    if (view.over) {
      this.stopping = false;
      figures.end(event.content);
      view.figures(figures.summary());
    }
    if (again || (event.event !== "message" && event.event !== "reasoning")) this.page.onChange(event);
  }

  /** The question is over. One that was stopped before the gateway had it ends without a word from there. */
  #settle(view, last = { event: "cancelled", content: view.text }) {
    if (!view.over) this.#apply(last, view);
  }

  #refused(line, view, error) {
    if (error.name === "AbortError") {
      if (this.#line === line) this.#settle(view);
      return;
    }
    this.stopping = false;
    this.page.figures.end(view.text);
    if (line.turnId && error.code !== "not_found") { // taken: only the listening was refused, as when a token's time is up
      view.turnId = line.turnId;
      this.#turns.set(line.turnId, view);
      if (!this.id) this.#remember(line.conversationId);
      return this.#losesSight(view, error);
    }
    this.#fails(view, error);
    if (error.code === "not_found") this.#remember(undefined);
    this.page.onChange({ event: "error", error: view.why });
  }

  #fails(view, error) {
    view.fail(sentence(error, "error_network"), { code: error.code, wrong: [413, 422].includes(error.status) });
    if (error.code === "unauthorized") this.page.onTokenWanted();
  }

  /** The turn goes on at the gateway, and its listener was refused for good: nobody but somebody's new token helps. */
  #losesSight(view, error) {
    this.stopping = false;
    this.page.figures.end(view.text);
    view.unheard(error.code === "unauthorized" ? say("span", "unheard_token") : sentence(error), error.code);
    if (error.code === "unauthorized") this.page.onTokenWanted();
    this.page.onChange({ event: "error", error: view.why });
  }

  /**
   * Asks again. A question that was never taken, as far as this page knows, is in no record: it goes, and the new one
   * takes its place, under the same key should it have been taken all the same.
   */
  #retry(view) {
    const again = !view.turnId && view.again?.whose === this.#whose() ? view.again : undefined;
    if (this.ask(view.question, again) && !view.turnId) view.element.remove();
  }

  /** Who asks whom. A key is for one body. */
  #whose() {
    const { userId, botId, shopId } = this.page.settings();
    return JSON.stringify([userId, botId, shopId, this.id]);
  }

  async #giveOutputs(turnId, toolOutputs) {
    const settings = this.page.settings();
    try {
      await request(settings, `turns/${turnId}/tool-outputs`, { body: { toolOutputs } });
    } catch (error) {
      const turn = error.status ? await request(settings, `turns/${turnId}`).catch(() => undefined) : undefined;
      error.answered = turn !== undefined && turn.status !== "action_required";
      throw error;
    }
  }

  /** A turn that was begun elsewhere: below all that the gateway has taken, above what it has not. */
  #show(message) {
    const view = new TurnView(message, this.buttons);
    let place = null;
    for (let last = this.page.log.lastElementChild; last && !last.dataset.turn; last = last.previousElementSibling) place = last;
    this.page.log.insertBefore(view.element, place);
    this.page.onTurn();
    return view;
  }

  #leave() {
    this.#hangUp();
    this.page.figures.clear();
    this.stopping = false;
    this.#asked = this.#current = this.#history = undefined;
    this.#turns.clear();
    this.#queued.clear();
    this.page.log.replaceChildren();
  }

  /** Closes the line without a word: what it says from here on is nobody's state any more. */
  #hangUp() {
    const line = this.#line;
    this.#line = undefined;
    this.#opened = false;
    line?.close();
  }

  #remember(id) {
    this.id = id;
    memory.keep(KEY, id);
    tabMemory.keep(ASKING);
    history.replaceState(null, "", id ? `#${id}` : location.pathname + location.search);
  }

  /** A page of the conversation's record, put above whatever is shown. */
  async #recall(record) {
    const first = this.#history === undefined;
    const here = () => this.id === record.id && (first || this.#history === record);
    try {
      const turns = await record.earlier();
      if (!here()) return;
      this.#history = record;
      const views = [];
      for (const { turnId, question, answer, status } of turns) {
        if (this.#turns.has(turnId)) continue;
        const view = new TurnView(question, this.buttons);
        view.turnId = turnId;
        if (answer !== undefined) view.recall(answer, status);
        this.#turns.set(turnId, view);
        views.push(view);
      }
      const put = () => {
        let last;
        for (const { turnId } of turns) { // some may be shown already, as one that runs
          const { element } = this.#turns.get(turnId);
          if (!element.isConnected && last) last.after(element);
          else if (!element.isConnected) this.page.log.prepend(element);
          last = element;
        }
      };
      if (first) put();
      else this.page.keepPlace(put);
      if (first) this.page.onTurn();
      this.page.onChange();
      await this.#recallMore(record, views, first ? views.slice(-RECALLED) : []);
    } catch (error) {
      if (!here()) return;
      if (error.code === "not_found") return void this.#isGone();
      this.page.onTrouble(make("span", {}, say("span", "history_failed"), " ", sentence(error)));
      if (error.code === "unauthorized") this.page.onTokenWanted();
    }
  }

  /** The conversation is not there, or not any more: somebody may have deleted it. */
  #isGone() {
    this.#blank();
    this.page.onTrouble(say("span", "conversation_unknown"));
  }

  /** Why turns failed, and all that there is of the newest ones, but for a running one. Above a reader it would push. */
  async #recallMore(record, views, newest) {
    for (const view of views.filter((one) => newest.includes(one) || one.state === "error").reverse()) {
      if (this.#history !== record) return;
      if (view === this.#current) continue; // its events tell
      const status = await record.recallMore(view).catch(() => {}); // the page is whole without
      if (status === "queued" && view.state === "waiting" && this.#history === record) {
        this.#queued.add(view);
        view.queued();
      }
      if (newest.includes(view) && view.over) await record.recallEvents(view).catch(() => {});
    }
    this.page.onChange();
  }
}

/** The simulated Coze plays a fault that the message begins with. */
const withFault = (fault, question) => (fault ? `/fault ${fault} -- ${question}` : question);

const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
