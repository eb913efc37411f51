/** The parser of server-sent events. */

export const LARGEST = 64 * 2 ** 20; // characters of one event or one answer: four times the gateway's own limit for an answer
const LINE_COST = 16; // the memory that each line of an event takes beside its characters

/** Incremental parser of `text/event-stream` as the WHATWG specification defines it; text comes in pieces cut anywhere. */
export class EventStreamParser {
  #partial = "";
  #afterCr = false;
  #begun = false;
  #data = [];
  #size = 0; // the size of the incomplete event
  #id;
  #type = "";

  /** @param {{onEvent: (data: string, id: string|undefined, type: string) => void, onRetry?: (ms: number) => void,
   *           onComment?: (text: string) => void, onId?: (id: string) => void}} handlers */
  constructor(handlers) {
    this.handlers = handlers;
  }

  push(chunk) {
    if (!chunk) return;
    let start = 0;
    if (!this.#begun) {
      this.#begun = true;
      if (chunk.charCodeAt(0) === 0xfeff) start = 1;
    }
    if (this.#afterCr && chunk.charCodeAt(start) === 10) start++;
    this.#afterCr = false;
    const ends = /\r\n|\n|\r/g;
    ends.lastIndex = start;
    for (let end; (end = ends.exec(chunk)); start = ends.lastIndex) {
      const line = this.#partial + chunk.slice(start, end.index);
      this.#partial = "";
      if (end[0] === "\r" && ends.lastIndex === chunk.length) this.#afterCr = true;
      this.#line(line);
    }
    this.#partial += chunk.slice(start);
    if (this.#size + this.#partial.length > LARGEST) throw new RangeError("The event is too large.");
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return this.handlers.onComment?.(line.slice(1).trim());
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.charCodeAt(0) === 32) value = value.slice(1);
    if (field === "data") {
      this.#data.push(value);
      this.#size += value.length + LINE_COST;
    }
    if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.handlers.onRetry?.(Number(value));
  }

  #dispatch() {
    const data = this.#data;
    const type = this.#type;
    this.#data = [];
    this.#size = 0;
    this.#type = "";
    if (data.length) this.handlers.onEvent(data.join("\n"), this.#id, type || "message");
    else if (this.#id !== undefined) this.handlers.onId?.(this.#id);
  }
}
