/** The scrolled part of the page: it follows the newest line, until the reader scrolls up. */

const NEAR_PX = 60; // from the end counts as the end

export class Scrolling {
  #scroll;
  #jump;
  #following = true;
  #placed = 0; // where the page itself has scrolled to

  /** @param {HTMLElement} scroll @param {HTMLElement} log what grows in it @param {HTMLElement} jump the button that leads to the end */
  constructor(scroll, log, jump) {
    this.#scroll = scroll;
    this.#jump = jump;
    jump.addEventListener("click", () => {
      this.follow(true);
      scroll.scrollTop = this.#placed = scroll.scrollHeight;
    });
    // An observer is told of growth after the layout, so that asking for the height costs no layout of its own.
    const growth = new ResizeObserver(() => {
      if (!this.#following) return void (jump.hidden = this.#atEnd);
      scroll.scrollTop = scroll.scrollHeight;
      this.#placed = scroll.scrollTop;
    });
    growth.observe(log);
    growth.observe(scroll);
    scroll.addEventListener("wheel", () => this.follow(this.#atEnd), { passive: true });
    scroll.addEventListener("touchmove", () => this.follow(this.#atEnd), { passive: true });
    scroll.addEventListener("keydown", () => requestAnimationFrame(() => this.follow(this.#atEnd)));
    // Only a reader scrolls upwards. A distance from the end may also come from growth, or from the browser's own anchoring.
    scroll.addEventListener("scrollend", () => this.follow(this.#atEnd || (this.#following && scroll.scrollTop >= this.#placed)));
  }

  get #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }

  follow(whether) {
    this.#following = whether;
    this.#jump.hidden = whether || this.#atEnd;
  }

  /** Makes a change above the text that is being read, without moving it. */
  keepPlace(change) {
    this.follow(false);
    const below = this.#scroll.scrollHeight - this.#scroll.scrollTop;
    change();
    this.#scroll.scrollTop = this.#scroll.scrollHeight - below;
  }
}
