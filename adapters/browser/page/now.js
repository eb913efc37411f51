/** What happens in the conversation now: shows each event on the turn that it belongs to. */
export class Now {
  stopping = false; // somebody pressed Stop, and the turn has not ended yet
  #page;
  #turns;
  #current; // the turn that events belong to

  /**
   * @param {object} page as `Conversation` has it
   * @param {import("./turn-list.js").TurnList} turns
   * @param {(view: object) => void} onBegun a turn began, which may have waited in the queue
   */
  constructor(page, turns, onBegun) {
    this.#page = page;
    this.#turns = turns;
    this.onBegun = onBegun;
  }

  get view() { return this.#current; }

  /** Whether an answer is running that this page receives. */
  get running() { return this.#current !== undefined && !this.#current.over && this.#current.state !== "unheard"; }

  clear() {
    this.stopping = false;
    this.#current = undefined;
  }

  /** @param asked the turn that this page is asking for, if there is one @param late whether it may have begun a while ago */
  apply(event, { asked, late = false } = {}) {
    const { figures } = this.#page;
    if (event.event === "started") {
      const recalled = this.#turns.get(event.turnId);
      const known = asked ?? recalled;
      // A turn whose events had no positions, as those of a whole answer, comes again, but is shown already.
      if (!asked && known?.over) return void (this.#current = undefined);
      if (asked && recalled && recalled !== asked) recalled.element.remove(); // the question had been taken before a reload
      this.#current = known ?? this.#insert(event.input);
      this.#turns.set(event.turnId, this.#current);
      this.onBegun(this.#current);
      if (!asked) figures.begin({ heard: true, late });
    } else if (event.event === "reset") {
      this.#current = asked ?? this.#turns.get(event.turnId) ?? this.#current;
    }
    const view = asked ?? this.#current;
    // An event after its turn's end is a repetition.
    if (!view || (view.over && event.event !== "started" && event.event !== "reset")) return;
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
    if (again || (event.event !== "message" && event.event !== "reasoning")) this.#page.onChange(event);
  }

  #insert(question) {
    const view = this.#turns.insert(question);
    this.#page.onTurn();
    return view;
  }
}
