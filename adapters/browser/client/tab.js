/** The browser's tab: whether anybody sees it, and whether it has a network. */

export class Tab {
  isQuiet = false; // hidden for so long that its connection was given back
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
    this.#on(globalThis, "offline", onOffline); // a page's, or a worker's
    this.#on(globalThis, "online", onReturn);
  }

  leave() {
    clearTimeout(this.#timer);
    for (const forget of this.#forget) forget();
  }

  /** The caller does something, seen or not, and wants to know how it ends. */
  attend() { this.isQuiet = false; }

  #hushLater() { this.#timer = setTimeout(() => this.#hush(), this.#quietAfterMs); }

  #hush() {
    // A question on its way must arrive first, and a caller that asked for "cancel" on leaving does not mean a hidden tab.
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
