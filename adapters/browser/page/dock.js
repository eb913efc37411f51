/**
 * A panel's place: beside the conversation on a wide screen; on a narrow one docked below it once it is asked for, so
 * that the answer stays in sight while its network is cut.
 */
export class Dock {
  /**
   * @param {object} parts
   * @param {HTMLElement} parts.main has the class `name` while the panel is open on a narrow screen
   * @param {string} parts.name
   * @param {HTMLElement} parts.side the panel's place
   * @param {HTMLButtonElement} parts.opener
   * @param {HTMLButtonElement} parts.closer
   */
  constructor(parts) {
    this.parts = parts;
    const { side, opener, closer } = parts;
    opener.addEventListener("click", () => {
      if (this.isOpen) return this.close();
      this.open();
      return closer.focus();
    });
    closer.addEventListener("click", () => this.close());
    side.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.isOpen || closer.offsetParent === null) return; // on a wide screen it stays
      event.preventDefault();
      this.close();
    });
  }

  get isOpen() { return this.parts.main.classList.contains(this.parts.name); }

  open() {
    this.parts.main.classList.add(this.parts.name);
    this.parts.opener.setAttribute("aria-expanded", "true");
  }

  close() {
    const { main, side, opener, name } = this.parts;
    const held = side.contains(document.activeElement);
    main.classList.remove(name);
    opener.setAttribute("aria-expanded", "false");
    if (held) opener.focus();
  }
}
