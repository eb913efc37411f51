/**
 * The conversation that the page shows. It asks by `chat()`, and listens by `connect()` while it asks nothing: answers may be
 * started in other tabs, or before a reload. It has one connection at a time, since browsers allow six per host over HTTP/1.1.
 */
import { leaveStepBack, recallConversation, rememberConversation, watchAddress } from "./address.js";
import { giveFeedback, giveOutputs, request, sentence } from "./api.js";
import { fresh, forgetAsked, keepAsked, recallAsked } from "./asking.js";
import { Connection } from "./connection.js";
import { make, say } from "./dom.js";
import { Now } from "./now.js";
import { Past } from "./past.js";
import { Queue } from "./queue.js";
import { TurnList } from "./turn-list.js";

export class Conversation {
  id;
  #turns;
  #queue;
  #past;
  #now;
  #asked; // the turn that this page is asking for

  /**
   * @param {object} page
   * @param {HTMLElement} page.log where turns go
   * @param {() => object} page.settings `baseUrl`, `userId`, `botId`, `shopId`, `token`, `transports`, `streaming`, `network`,
   *   and the `attachments` of the next question with the `files`' names
   * @param {() => void} page.onAsked a question went, and its attachments with it
   * @param {() => boolean} page.isTyping whether somebody is writing a question
   * @param {import("./figures.js").Figures} page.figures
   * @param {(state: string, detail: object) => void} page.onState what the connection does; `reason` is a key of words
   * @param {(words: Node) => void} page.onTrouble shows what went wrong
   * @param {() => void} page.onTokenWanted the gateway accepts no request without another token
   * @param {(text: string) => void} page.edit puts a question into the field
   * @param {() => void} page.onChange something began or ended
   * @param {() => void} page.onTurn the log has one more turn
   * @param {(change: () => void) => void} page.keepPlace makes a change above the text that is being read, without moving it
   */
  constructor(page) {
    this.page = page;
    this.#turns = new TurnList(page.log, {
      ask: (text) => this.ask(text),
      edit: (text) => page.edit(text),
      retry: (view) => this.#retry(view),
      takeBack: (view) => this.#queue.takeBack(view),
      tryNow: () => this.connection.tryNow(),
      giveOutputs: (turnId, toolOutputs) => giveOutputs(page.settings(), turnId, toolOutputs),
      giveFeedback: (turnId, feedback) => giveFeedback(page.settings(), turnId, feedback).then(() => true, page.onTrouble),
    });
    this.connection = new Connection((state, detail) => this.#tell(state, detail));
    this.#queue = new Queue(page, this.#turns);
    this.#now = new Now(page, this.#turns, (view) => this.#queue.remove(view));
    this.#past = new Past(page, this.#turns, {
      shows: (id) => this.id === id,
      isHeard: (view) => view === this.#now.view,
      queued: (view) => this.#queue.add(view),
      isGone: () => this.#isGone(),
    });
    watchAddress((id) => {
      if (id && id !== this.id) this.open(id);
      if (!id && this.id) this.#blank();
    }, (id) => {
      // A tab in which nothing has happened yet follows the one where something does; any other stays where it is.
      if (!this.id && !this.running && !page.log.childElementCount && !page.isTyping()) this.open(id);
    });
  }

  /** Opens the conversation that was shown before a reload, if there was one, and asks again what was being asked. */
  resume() {
    const id = recallConversation();
    const asked = recallAsked();
    if (asked && !asked.id && !location.hash) return this.ask(asked.question, asked);
    if (!id) return undefined;
    const opened = this.open(id);
    // If something runs already, it is that very question: the gateway had taken it after all.
    return asked?.id === id ? opened.then(() => !this.running && this.ask(asked.question, asked)) : opened;
  }

  /** Whether an answer is running that this page receives. */
  get running() { return this.#asked !== undefined || this.#now.running; }

  get stopping() { return this.#now.stopping; }

  /** Whether a question that is asked now has to wait for another one's answer. */
  get busy() { return this.running || this.#queue.size > 0; }

  get hasEarlier() { return this.#past.hasEarlier; }

  /** Begins a new conversation; the one before is a step back in the browser's history. */
  begin() {
    if (this.id) leaveStepBack();
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
    const recalled = this.#past.open(id);
    this.#listen();
    await recalled;
  }

  /** A token was entered: tries again what was refused without it. */
  async signedIn() {
    if (!this.id || this.#asked) return;
    const recalled = this.#past.isOpen ? undefined : this.#past.open(this.id);
    this.#listen(this.connection.position);
    await recalled;
  }

  /**
   * Asks a question. `again` is what was kept of a question that was asked before. Its key is sent again, so that the
   * gateway starts no second turn.
   */
  ask(question, again) {
    if (!question.trim()) return false;
    if (this.busy) return this.#enqueue(question, again);
    const settings = this.page.settings();
    const { message, key, onBusy, attachments, files } = again ?? fresh(question, settings);
    keepAsked({ id: this.id, question, message, key, onBusy, attachments, files });
    const view = this.#turns.ask(question, files);
    if (!again) this.page.onAsked();
    this.page.onTurn();
    const heard = this.connection.position; // where to listen on if the question is refused: others may say something meanwhile
    this.#asked = view;
    this.page.figures.begin({ late: again?.at !== undefined }); // it was asked before a reload
    view.again = { message, key, onBusy, attachments, files, whose: this.#whose() };
    const line = this.connection.ask({
      ...settings,
      message, onBusy, attachments, idempotencyKey: key, conversationId: this.id,
      onEvent: (event) => {
        if (event.conversationId && !this.id) this.#remember(event.conversationId);
        if (event.event === "started") forgetAsked();
        this.#now.apply(event, { asked: view });
      },
    });
    this.page.onChange();
    line.done.then((last) => this.#settle(view, last), (error) => this.#refused(line, view, error)).finally(() => {
      if (!this.connection.has(line)) return; // the page has moved on to another conversation
      this.#asked = undefined;
      forgetAsked();
      this.#listen(line.position ?? heard);
      this.page.onChange();
    });
    return true;
  }

  /** Hands the gateway a question while an answer runs. */
  #enqueue(question, again) {
    if (!this.id) return false; // the first question is on its way: there is no conversation to wait in
    const { userId, botId, shopId, ...settings } = this.page.settings();
    const before = again?.onBusy ? again : undefined; // a key is for one body
    const { message, key, attachments, files } = before ?? fresh(question, again ? { ...settings, ...again } : settings);
    const view = this.#turns.ask(question, files);
    if (!again) this.page.onAsked();
    view.again = { message, key, onBusy: "queue", attachments, files, whose: this.#whose() };
    const body = { userId, botId, shopId, message, attachments, conversationId: this.id, onBusy: "queue" };
    this.#queue.handOver(settings, view, { body, key, onRefused: (error) => this.#fails(view, error) });
    this.page.onTurn();
    this.page.onChange();
    return true;
  }

  /** Deletes the conversation at the gateway. Rejects when it may still be there. */
  async remove() {
    const { id } = this;
    await request(this.page.settings(), `conversations/${id}`, { method: "DELETE" }).catch((error) => {
      if (error.code !== "not_found") throw error;
    });
    if (this.id === id) this.#blank();
  }

  /** Stops the running answer. The page shows it at once, whether or not the gateway can be told. */
  async stop() {
    const view = this.#asked ?? this.#now.view;
    if (!this.running || this.stopping) return;
    this.#now.stopping = true;
    view.stopping();
    this.page.onChange();
    try {
      await (this.connection.cancel() ?? request(this.page.settings(), `turns/${view.turnId}/cancel`, { body: {} }));
    } catch (error) {
      if (view.over || !this.stopping) return;
      this.#now.stopping = false;
      view.stopping(false);
      this.page.onTrouble(make("span", {}, say("span", "stop_failed"), " ", sentence(error)));
      this.page.onChange();
    }
  }

  /** Shows the turns before the first one that is shown. */
  showEarlier() { return this.#past.showEarlier(); }

  #listen(after) {
    if (!this.id) return;
    const { userId, botId, shopId, streaming, fault, ...settings } = this.page.settings();
    this.connection.listen({
      ...settings,
      scope: `conversations/${this.id}`,
      after,
      onEvent: (event) => this.#now.apply(event, { late: !this.connection.isOpen }),
    });
  }

  #tell(state, detail) {
    const { reason, delayMs, error } = detail;
    const view = this.#asked ?? this.#now.view;
    if (state === "open") view?.waits();
    if (state === "offline") view?.waits("reason_offline");
    // In the middle of an answer the next attempt usually follows at once: words about it would only flicker.
    if (state === "waiting" && reason !== "hidden" && (!view?.turnId || delayMs > 800)) view?.waits(reason, delayMs);
    this.page.onState(state, detail);
    if (state !== "closed" || !error || this.#asked) return;
    if (error.code === "not_found") this.#isGone();
    else if (this.running) this.#losesSight(view, error);
  }

  /** The turn is over. A question that was stopped before the gateway had it ends without an event. */
  #settle(view, last = { event: "cancelled", content: view.text }) {
    if (!view.over) this.#now.apply(last, { asked: view });
  }

  #refused(line, view, error) {
    if (error.name === "AbortError") {
      if (this.connection.has(line)) this.#settle(view);
      return;
    }
    this.#now.stopping = false;
    this.page.figures.end(view.text);
    if (line.turnId && error.code !== "not_found") { // taken: only listening was refused, for example because the token has expired
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

  /** The turn goes on at the gateway, but this page may not listen to it until somebody gives another token. */
  #losesSight(view, error) {
    this.#now.stopping = false;
    this.page.figures.end(view.text);
    view.unheard(error.code === "unauthorized" ? say("span", "unheard_token") : sentence(error), error.code);
    if (error.code === "unauthorized") this.page.onTokenWanted();
    this.page.onChange({ event: "error", error: view.why });
  }

  /**
   * Asks again. As far as this page knows the gateway never took a question without an id, so the new question replaces
   * it on the page. It has the same key, in case the gateway did take it. Files go along again.
   */
  #retry(view) {
    const same = !view.turnId && view.again?.whose === this.#whose();
    const { attachments, files } = view.again ?? {};
    const again = same ? view.again : fresh(view.question, { ...this.page.settings(), attachments, files });
    if (this.ask(view.question, again) && !view.turnId) view.element.remove();
  }

  /** The fields that say who asks which bot in which shop. A key may only be sent again with the same body. */
  #whose() {
    const { userId, botId, shopId } = this.page.settings();
    return JSON.stringify([userId, botId, shopId, this.id]);
  }

  #leave() {
    this.connection.close();
    this.page.figures.clear();
    this.#asked = undefined;
    this.#now.clear();
    this.#past.close();
    this.#queue.clear();
    this.#turns.clear();
  }

  #remember(id) {
    this.id = id;
    rememberConversation(id);
    forgetAsked();
  }

  /** The gateway does not know the conversation, perhaps because somebody has deleted it. */
  #isGone() {
    this.#blank();
    this.page.onTrouble(say("span", "conversation_unknown"));
  }
}
