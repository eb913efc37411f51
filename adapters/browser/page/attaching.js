/** The paper-clip: files that go along with the next question. Each is uploaded as soon as it is chosen. */
import { upload } from "../client/coze-gateway.js";
import { sentence } from "./api.js";
import { iconButton, make, say } from "./dom.js";
import { formatNumber, language, t } from "./language.js";

const CROSS = "M6 6l12 12M18 6L6 18";
const MOST = 10;
const KINDS = ["image", "audio"]; // any other type of content is a file

export class Attaching {
  limit = 67_108_864; // bytes of a file
  #page;
  #parts;
  #files = [];

  /**
   * @param {{opener: HTMLButtonElement, input: HTMLInputElement, list: HTMLElement}} parts
   * @param {object} page
   * @param {() => object} page.settings `baseUrl`, `userId`, `shopId`, `token`
   * @param {(words: Node) => void} page.onTrouble shows what went wrong
   * @param {() => void} page.onChosen somebody chose files
   * @param {() => void} page.onReady no file is on its way any more
   */
  constructor(parts, page) {
    this.#parts = parts;
    this.#page = page;
    const { opener, input } = parts;
    opener.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      const chosen = [...input.files];
      input.value = ""; // so that the same file can be chosen again
      page.onChosen();
      for (const file of chosen) this.add(file);
      opener.focus();
    });
  }

  /** Whether a file is still on its way. */
  get busy() { return this.#files.some(({ fileId }) => !fileId); }

  /** What a question may name. */
  get attachments() {
    return this.#files.length ? this.#files.map(({ type, fileId }) => ({ type, fileId })) : undefined;
  }

  get names() { return this.#files.map(({ name }) => name); }

  /** Begins to send a file. */
  add(file) {
    if (this.#files.length >= MOST) return this.#page.onTrouble(say("span", "attach_many", { "data-n": MOST }));
    if (file.size > this.limit) return this.#page.onTrouble(say("span", "attach_large", { "data-n": this.limit }));
    const ending = new AbortController();
    const one = { name: file.name, type: KINDS.find((kind) => file.type.startsWith(`${kind}/`)) ?? "file" };
    const bar = make("progress", { max: file.size || 1, "aria-label": t("attach_sending", { name: file.name }) });
    const told = make("small", {});
    one.remove = () => {
      ending.abort();
      this.#drop(one);
      this.#parts.opener.focus();
    };
    one.element = make("li", { class: "attached" }, make("span", { class: "attached-name", dir: "auto" }, file.name), bar, told,
      iconButton("attach_remove", CROSS, { class: "attached-remove", onclick: one.remove }));
    this.#files.push(one);
    this.#show(one.element);
    const { baseUrl, token, userId, shopId } = this.#page.settings();
    const onProgress = ({ sent, total }) => {
      bar.value = sent;
      told.textContent = `${formatNumber(total ? Math.floor((sent / total) * 100) : 100)} %`;
    };
    upload(file, { baseUrl, token, userId, shopId, language: language(), signal: ending.signal, onProgress }).then(({ fileId }) => {
      one.fileId = fileId;
      bar.remove();
      told.remove();
      this.#settled();
    }, (error) => {
      if (error.name === "AbortError") return;
      this.#drop(one);
      this.#page.onTrouble(make("span", {}, say("span", "attach_failed", { "data-name": file.name }), " ", sentence(error)));
    });
    return undefined;
  }

  /** The question was asked: the files have gone with it. */
  clear() {
    for (const { element } of this.#files.splice(0)) element.remove();
    this.#parts.list.hidden = true;
  }

  #show(element) {
    this.#parts.list.append(element);
    this.#parts.list.hidden = false;
  }

  #drop(one) {
    this.#files = this.#files.filter((other) => other !== one);
    one.element.remove();
    this.#parts.list.hidden = this.#files.length === 0;
    this.#settled();
  }

  #settled() {
    if (!this.busy) this.#page.onReady();
  }
}
