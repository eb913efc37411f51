/**
 * The list of the user's conversations: each is a link that opens it, and may be given another title. On a narrow screen it
 * is a drawer.
 */
import { request, sentence } from "./api.js";
import { Dock } from "./dock.js";
import { iconButton, make, say } from "./dom.js";
import { onLanguage, t } from "./language.js";

const PAGE = 30;
const PENCIL = "m4 20 1-4L16 5l3 3L8 19zm10-13 3 3";
const LONGEST = 200; // characters of a title

export class Talks {
  #parts;
  #settings;
  #known = new Map(); // the conversations in the list, by id
  #next; // the cursor of the next page
  #shown; // the id of the conversation that the page shows
  #looked; // the id that the list was last fetched for
  #round = 0; // an answer to an earlier round comes too late

  /**
   * @param {(id: string) => HTMLElement} at the page's element with an id
   * @param {() => object} settings `baseUrl`, `userId`, `shopId`, `token` and `network`
   */
  constructor(at, settings) {
    this.#parts = { list: at("talks-list"), more: at("talks-more"), hint: at("talks-hint") };
    this.#settings = settings;
    const places = { main: at("main"), side: at("talks"), opener: at("talks-button"), closer: at("talks-close") };
    const drawer = new Dock({ ...places, name: "listed" });
    this.#parts.more.addEventListener("click", () => this.#fetch(this.#next));
    this.#parts.list.addEventListener("click", ({ target }) => { if (target.closest(".talk")) drawer.close(); });
    for (const id of ["userId", "shopId"]) at(id).addEventListener("change", () => this.load());
    onLanguage(() => this.#show());
  }

  /** Fetches the list anew: another user, another token, or a conversation less. */
  load() { return this.#fetch(); }

  /** The page shows this conversation now; without an id it is a new one. */
  mark(id) {
    const changed = id !== this.#shown;
    this.#shown = id;
    if (id && !this.#known.has(id) && this.#looked !== id) {
      this.#looked = id;
      this.load();
    } else if (changed) this.#show();
  }

  async #fetch(cursor) {
    const { userId, shopId, token, ...settings } = this.#settings();
    const round = ++this.#round;
    if (!userId && !token) return this.#replace([]);
    const query = new URLSearchParams({ limit: PAGE, ...(userId && { userId }), ...(shopId && { shopId }), ...(cursor && { cursor }) });
    try {
      const { conversations, next } = await request({ ...settings, token }, `conversations?${query}`);
      if (round !== this.#round) return undefined;
      this.#next = next ?? undefined;
      return this.#replace(cursor ? [...this.#known.values(), ...conversations] : conversations);
    } catch (error) {
      if (round !== this.#round) return undefined;
      if (!cursor) this.#replace([]);
      return this.#tell(make("span", {}, say("span", "talks_failed"), " ", sentence(error)));
    }
  }

  #replace(conversations) {
    this.#known = new Map(conversations.map((one) => [one.conversationId, one]));
    this.#show();
    this.#tell(this.#known.size ? undefined : say("span", "talks_none"));
  }

  #tell(words) {
    this.#parts.hint.hidden = !words;
    this.#parts.hint.replaceChildren(...(words ? [words] : []));
  }

  #show() {
    const focused = document.activeElement?.closest?.("[data-talk]")?.dataset.talk;
    this.#parts.list.replaceChildren(...[...this.#known.values()].map((one) => this.#item(one)));
    this.#parts.more.hidden = !this.#next;
    if (focused) this.#parts.list.querySelector(`[data-talk="${focused}"] .talk`)?.focus({ preventScroll: true });
  }

  #item(one) {
    const { conversationId: id, title, createdAt } = one;
    const current = id === this.#shown;
    const begun = new Date(createdAt * 1_000);
    const link = make("a", { class: "talk", href: `#${id}`, "aria-current": current && "true", title },
      make("span", { dir: "auto" }, title.trim() || "–"), make("time", { datetime: begun.toISOString() }, dateOf(begun)));
    const item = make("li", { "data-talk": id }, link);
    item.append(iconButton("talks_rename", PENCIL, { class: "rename", onclick: () => this.#rename(one, item) }));
    return item;
  }

  /** Puts a field in place of the title. Enter gives the conversation what is in it, Escape leaves it as it was. */
  #rename(one, item) {
    const field = make("input", { maxlength: LONGEST, value: one.title, dir: "auto", "data-t-label": "talks_title", "aria-label": t("talks_title"), autocomplete: "off" });
    const form = make("form", { class: "renaming" }, field, say("button", "talks_save", { type: "submit", class: "quiet-button" }));
    const leave = () => {
      item.replaceWith(this.#item(one));
      this.#parts.list.querySelector(`[data-talk="${one.conversationId}"] .talk`)?.focus();
    };
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // it stops no answer, and closes no drawer
      event.stopPropagation();
      leave();
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        const body = { title: field.value.trim() || null };
        await request(this.#settings(), `conversations/${one.conversationId}`, { method: "PATCH", body });
        if (body.title) one.title = body.title;
        else await this.load();
        this.#tell();
        if (item.isConnected) leave();
      } catch (error) {
        this.#tell(sentence(error));
      }
    });
    item.replaceChildren(form);
    field.select();
  }
}

function dateOf(date) {
  const { lang } = document.documentElement;
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(lang || undefined, today ? { timeStyle: "short" } : { dateStyle: "medium" });
}
