/** Live figures of the answer being given, and the chart of its pace. */
import { isText } from "./cards.js";
import { make } from "./dom.js";
import { formatNumber, formatTime, t } from "./language.js";
import { ShownLength } from "./shown-length.js";

const WINDOW_MS = 30_000;
const BUCKET_MS = 500;
const WIDTH = 300;
const HEIGHT = 72;

export class Figures {
  #began;
  #late = false;
  #first; // when the first piece of the answer or its reasoning arrived
  #firstText; // when the first piece of text arrived: the pace is measured from here
  #ended;
  #shown = new ShownLength();
  #pieces = 0;
  #opens = 0;
  #transport; // the one that brought this answer
  #line; // the transport that is open now
  #buckets = new Map(); // index of half a second -> characters
  #cuts = []; // the times at which the connection was lost
  #timer;

  /** @param {HTMLElement} root holds an output for each figure in `data-figure`, and the chart's `svg` */
  constructor(root) {
    this.outputs = Object.fromEntries([...root.querySelectorAll("[data-figure]")].map((cell) => [cell.dataset.figure, cell]));
    this.chart = root.querySelector("svg");
    this.empty = root.querySelector(".chart-empty");
  }

  /**
   * `heard`: the answer arrives over the connection that listens. `late`: the answer began before this page listened, so
   * its speed is not known, and `text` is the text that it had by then.
   */
  begin({ heard = false, late = false, text = "" } = {}) {
    this.#forget();
    this.#late = late;
    this.#began = performance.now();
    this.#transport = heard ? this.#line : undefined;
    this.#count(text);
    this.#opens = this.#transport ? 1 : 0;
    this.#timer = setInterval(() => this.show(), 250);
    this.show();
  }

  /** Another conversation is shown: nothing has been measured for it yet. */
  clear() {
    this.#forget();
    this.#line = undefined;
    this.#buckets.clear();
    this.#cuts = [];
    this.show();
  }

  #forget() {
    clearInterval(this.#timer);
    this.#late = false;
    this.#began = this.#first = this.#firstText = this.#ended = this.#transport = undefined;
    this.#pieces = this.#opens = 0;
    this.#count("");
  }

  /** Counts a piece of the answer or of its reasoning. Only text counts for the characters and the pace. */
  piece(event) {
    const now = performance.now();
    this.#first ??= now;
    this.#pieces++;
    if (event.event !== "message" || !isText(event)) return;
    this.#firstText ??= now;
    const size = event.replace ? this.#count(event.content) : this.#shown.add(event.content);
    const bucket = Math.floor(now / BUCKET_MS);
    this.#buckets.set(bucket, (this.#buckets.get(bucket) ?? 0) + size);
  }

  /** The whole text so far has been sent anew. */
  reset(text) {
    this.#count(text);
  }

  /** The whole answer is known. From now on its length counts, whatever was merged or rewritten on the way. */
  end(content) {
    if (this.#began === undefined || this.#ended !== undefined) return;
    this.#ended = performance.now();
    if (content !== undefined) this.#count(content);
    clearInterval(this.#timer);
    this.show();
    // The chart runs on until its last piece has left it.
    this.#timer = setInterval(() => { this.#draw(); if (!this.#buckets.size) clearInterval(this.#timer); }, 1_000);
  }

  /** `transport`: the client module's name for it, or `whole`. */
  opened(transport) {
    this.#line = transport;
    if (this.#began === undefined || this.#ended !== undefined) return; // an answer keeps the transport that brought it
    this.#transport = transport;
    this.#opens++;
    this.show();
  }

  lost() {
    if (this.#ended !== undefined) return;
    this.#cuts.push(performance.now());
    this.show();
  }

  summary() {
    return {
      firstMs: this.#first === undefined || this.#late ? undefined : this.#first - this.#began,
      totalMs: this.#ended === undefined || this.#late ? undefined : this.#ended - this.#began,
      characters: this.#shown.length,
      transport: this.#transport,
      pieces: this.#pieces,
      reconnects: Math.max(this.#opens - 1, 0),
    };
  }

  show() {
    const { firstMs, characters, transport, pieces, reconnects } = this.summary();
    const until = this.#ended ?? performance.now();
    const writing = this.#firstText === undefined || this.#late ? 0 : Math.max(until - this.#firstText, 1);
    this.#put("first", formatTime(firstMs));
    this.#put("total", this.#began === undefined || this.#late ? "–" : formatTime(until - this.#began));
    this.#put("characters", formatNumber(characters));
    this.#put("pieces", formatNumber(pieces));
    this.#put("pace", writing > 200 ? formatNumber(Math.round((characters * 1_000) / writing)) : "–");
    this.#put("reconnects", formatNumber(reconnects));
    this.#put("transport", transport === "whole" ? t("transport_whole") : (transport ?? "–"));
    this.#draw();
  }

  /** Counts the whole text so far. @returns how many characters of it are shown */
  #count(text) {
    this.#shown = new ShownLength();
    return this.#shown.add(text);
  }

  #put(name, text) {
    const cell = this.outputs[name];
    if (cell && cell.textContent !== text) cell.textContent = text;
  }

  #draw() {
    const now = performance.now();
    const last = Math.floor(now / BUCKET_MS);
    const first = last - WINDOW_MS / BUCKET_MS;
    for (const bucket of this.#buckets.keys()) if (bucket < first) this.#buckets.delete(bucket);
    this.#cuts = this.#cuts.filter((at) => now - at < WINDOW_MS);
    const values = Array.from({ length: last - first + 1 }, (_, i) => this.#buckets.get(first + i) ?? 0);
    const top = Math.max(...values, 1);
    const points = values.map((value, i) => `${((i / (values.length - 1)) * WIDTH).toFixed(1)},${(HEIGHT - 4 - (value / top) * (HEIGHT - 14)).toFixed(1)}`);
    this.chart.querySelector(".pace-line").setAttribute("points", points.join(" "));
    this.chart.querySelector(".pace-area").setAttribute("points", `0,${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`);
    const cuts = this.#cuts.map((at) => WIDTH - ((now - at) / WINDOW_MS) * WIDTH);
    this.chart.querySelector(".cuts").setAttribute("d", cuts.map((x) => `M${x.toFixed(1)} 0V${HEIGHT}`).join(""));
    this.chart.setAttribute("aria-label", `${t("chart")}: ${t("pace")} ${this.outputs.pace.textContent}`);
    this.empty.hidden = this.#buckets.size > 0;
    this.chart.classList.toggle("blank", this.#buckets.size === 0);
  }
}

/** The log of what the network did lately, newest first. */
export class NetworkLog {
  constructor(list) {
    this.list = list;
  }

  /** @param {"good"|"bad"|""} kind @param {(string|Node)[]} words names as they are, the rest by `say` */
  add(kind, ...words) {
    this.list.querySelector(".log-empty")?.remove();
    const time = new Date().toTimeString().slice(0, 8); // the same in every language
    this.list.prepend(make("li", { class: kind }, make("time", {}, time), ...words.flatMap((word) => [" ", word])));
    while (this.list.children.length > 30) this.list.lastChild.remove();
  }
}
