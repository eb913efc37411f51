/** The browser's tab: whether it is seen, and whether it is online. */

export class Tab {
  isQuiet = false; // hidden for so long that its connection was closed
  #timer;
  #forget = [];
  #options;
  #state;
  #quietAfterMs;
  #handlers;

  /**
   * @param {object} options the caller's, with `onDisconnect`
   * @param {{onQuiet: () => void, onReturn: () => void, onOffline: () => void}} handlers `onReturn`: the tab is seen
   *   again, or the network is back
   */
  constructor(options, { state, quietAfterMs }, handlers) {
    this.#options = options;
    this.#state = state;
    this.#quietAfterMs = quietAfterMs;
    this.#handlers = handlers;
  }

  listen() {
    const page = globalThis.document;
    const { onReturn, onOffline } = this.#handlers;
    const visibility = () => {
      clearTimeout(this.#timer);
      if (page.visibilityState !== "hidden") {
        this.isQuiet = false;
        onReturn();
      } else this.#hushLater();
    };
    this.#on(page, "visibilitychange", visibility);
    if (page?.visibilityState === "hidden") visibility();
    this.#on(globalThis, "offline", onOffline); // in a page or a worker
    this.#on(globalThis, "online", onReturn);
  }

  leave() {
    clearTimeout(this.#timer);
    for (const forget of this.#forget) forget();
  }

  /** The caller acts, whether the tab is seen or not, and wants to know the result. */
  attend() { this.isQuiet = false; }

  #hushLater() { this.#timer = setTimeout(() => this.#hush(), this.#quietAfterMs); }

  #hush() {
    // A question on its way must arrive first. And `onDisconnect: "cancel"` is about leaving the page, not about hiding the tab.
    if (this.#options.onDisconnect === "cancel") return;
    if (this.#state.question) this.#hushLater();
    else {
      this.isQuiet = true;
      this.#handlers.onQuiet();
    }
  }

  #on(target, type, listener) {
    if (typeof target?.addEventListener !== "function") return;
    target.addEventListener(type, listener);
    this.#forget.push(() => target.removeEventListener(type, listener));
  }
}
