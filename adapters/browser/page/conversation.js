/**
 * The conversation that the page shows: asks by `chat()`, and listens by `connect()` while it asks nothing, so that an
 * answer begun in another tab, or before a reload, appears here too. One connection at a time: browsers allow six to a
 * host over HTTP/1.1, for all tabs together.
 */
import { chat, connect, GatewayError } from "../client/coze-gateway.js";
import { language, t } from "./language.js";
import { TurnView } from "./turn-view.js";

const KEY = "gateway.conversation";
const ID = /^conv_[0-9a-f-]{36}$/;

export class Conversation {
  id;
  #line; // the open `chat` or `connect`
  #turns = new Map();
  #current; // the turn that events belong to now
  #asking = false;

  /**
   * @param {object} page
   * @param {HTMLElement} page.log where turns go
   * @param {() => object} page.settings `userId`, `botId`, `shopId`, `token`, `transports`, `streaming`, `network`
   * @param {import("./figures.js").Figures} page.figures
   * @param {(state: string, detail: object) => void} page.onState what the connection does
   * @param {() => void} page.onChange something began or ended
   * @param {() => void} page.onTurn the log has one more turn
   */
  constructor(page) {
    this.page = page;
    this.buttons = {
      ask: (text) => this.ask(text),
      giveOutputs: (turnId, toolOutputs) => this.#post(`turns/${turnId}/tool-outputs`, { toolOutputs }),
    };
    addEventListener("hashchange", () => {
      const id = location.hash.slice(1);
      if (ID.test(id) && id !== this.id) this.open(id);
    });
    addEventListener("storage", ({ key, newValue }) => {
      if (key === KEY && !this.id && ID.test(newValue ?? "")) this.open(newValue);
    });
  }

  /** The conversation of before the reload, if there was one. */
  resume() {
    const id = [location.hash.slice(1), localStorage.getItem(KEY)].find((known) => ID.test(known ?? ""));
    if (id) this.open(id);
  }

  get running() { return this.#asking || (this.#current !== undefined && !this.#current.over); }

  get position() { return this.#line?.position; }

  begin() {
    this.#leave();
    this.#remember(undefined);
    this.page.onState("idle", {});
    this.page.onChange();
  }

  async open(id) {
    this.#leave();
    this.#remember(id);
    const history = this.#recall(id);
    this.#listen();
    await history;
    this.page.onChange();
  }

  ask(message) {
    if (this.running || !message.trim()) return false;
    const { fault, ...settings } = this.page.settings();
    const view = this.#show(message);
    this.#hangUp();
    this.#asking = true;
    this.page.figures.begin();
    const line = chat({
      ...settings,
      message: fault ? `/fault ${fault} -- ${message}` : message,
      conversationId: this.id,
      language: language(),
      onEvent: (event) => {
        if (event.conversationId && !this.id) this.#remember(event.conversationId);
        this.#apply(event, view);
      },
      onState: (state, detail) => { if (this.#line === line) this.page.onState(state, detail); },
    });
    this.#line = line;
    this.page.onChange();
    line.done.catch((error) => { if (error.name !== "AbortError") this.#refused(view, error); }).finally(() => {
      if (this.#line !== line) return; // the page has moved on to another conversation
      this.#asking = false;
      this.#listen(line.position);
      this.page.onChange();
    });
    return true;
  }

  async stop() {
    if (this.#line?.cancel) await this.#line.cancel();
    else if (this.#current?.turnId) await this.#post(`turns/${this.#current.turnId}/cancel`);
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
      onState: (state, detail) => { if (this.#line === line) this.page.onState(state, detail); },
    });
    this.#line = line;
  }

  #apply(event, asked) {
    if (event.event === "started") {
      this.#current = asked ?? this.#turns.get(event.turnId) ?? this.#show(event.input);
      this.#turns.set(event.turnId, this.#current);
      if (!asked) this.page.figures.begin(true);
    } else if (event.event === "reset") {
      this.#current = asked ?? this.#turns.get(event.turnId) ?? this.#current;
    }
    const view = asked ?? this.#current;
    if (!view) return;
    view.apply(event);
    if (event.event === "message" || event.event === "reasoning") this.page.figures.piece(event.content);
    if (view.over) {
      this.page.figures.end(event.content);
      view.figures(this.page.figures.summary());
    }
    if (event.event !== "message" && event.event !== "reasoning") this.page.onChange(event);
  }

  #refused(view, error) {
    const sentence = error instanceof GatewayError && error.problem ? error.message : t("error_network");
    view.fail(sentence, { code: error.code, retryable: error.status !== 422 });
    this.page.figures.end("");
    if (error.code === "not_found") this.#remember(undefined);
  }

  #show(message) {
    const view = new TurnView(message, this.buttons);
    this.page.log.append(view.element);
    this.page.onTurn();
    return view;
  }

  #leave() {
    this.#hangUp();
    this.#asking = false;
    this.#current = undefined;
    this.#turns.clear();
    this.page.log.replaceChildren();
  }

  /** Closes the line without a word: what it says from here on is nobody's state any more. */
  #hangUp() {
    const line = this.#line;
    this.#line = undefined;
    line?.close();
  }

  #remember(id) {
    this.id = id;
    if (id) localStorage.setItem(KEY, id);
    else localStorage.removeItem(KEY);
    history.replaceState(null, "", id ? `#${id}` : location.pathname + location.search);
  }

  /** The conversation's record, put above whatever has come alive meanwhile. */
  async #recall(id) {
    try {
      const response = await this.#request(`conversations/${id}/messages?limit=100`);
      if (response.status === 404) return this.begin();
      if (!response.ok) throw new Error(String(response.status));
      const { messages } = await response.json();
      if (this.id !== id) return undefined;
      const recalled = new Map();
      for (const { turnId, role, content, status } of messages) {
        if (this.#turns.has(turnId) && !recalled.has(turnId)) continue;
        if (role === "user") {
          const view = new TurnView(content, this.buttons);
          view.turnId = turnId;
          recalled.set(turnId, view);
          this.#turns.set(turnId, view);
        } else if (!["running", "queued"].includes(status)) {
          recalled.get(turnId)?.recall(content, status);
        }
      }
      this.page.log.prepend(...[...recalled.values()].map((view) => view.element));
      this.page.onTurn();
    } catch {
      this.page.onState("notice", { reason: t("history_failed") });
    }
    return undefined;
  }

  async #request(path, init = {}) {
    const { token, network } = this.page.settings();
    const headers = { ...init.headers, "Accept-Language": language(), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    return network.fetch(`/api/coze/${path}`, { ...init, headers });
  }

  #post(path, body) {
    return this.#request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });
  }
}
