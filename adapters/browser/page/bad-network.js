/**
 * A network that is bad on purpose, under the client module and unknown to it: stand-ins for `fetch`, `WebSocket` and
 * `EventSource` that cut, slow down, hold back and refuse, as real networks and proxies do.
 */
export class BadNetwork {
  slowMs = 0;
  buffers = false;
  refusesWebSocket = false;
  onCut = () => {};
  #open = new Set(); // one function for each open connection, which breaks it
  #cutting;

  /** Breaks whatever is open now. @returns how many connections that were */
  cut() {
    const open = [...this.#open];
    for (const breaks of open) breaks();
    if (open.length) this.onCut();
    return open.length;
  }

  cutEvery(ms) {
    clearInterval(this.#cutting);
    if (ms) this.#cutting = setInterval(() => this.cut(), ms);
  }

  /** What the client module takes as its `network`. */
  parts() {
    const network = this;
    const CuttableSocket = class extends WebSocket {
      #handler; // of the close
      #breaks = () => {
        this.#handler?.(new CloseEvent("close", { code: 1006 })); // as from a network: to its own `close()` it would be 1000
        this.#handler = this.#read = undefined;
        this.close();
      };

      constructor(url, protocols) {
        super(url, protocols);
        if (network.refusesWebSocket) return this.close();
        network.#open.add(this.#breaks);
        this.addEventListener("close", () => network.#open.delete(this.#breaks));
      }

      // One queue for both: what ends a connection must not overtake what it has brought.
      #give = network.#late((event) => (event.type === "close" ? this.#handler?.(event) : this.#read?.(event)));
      #read;

      set onmessage(handler) {
        this.#read = handler;
        super.onmessage = this.#give;
      }

      set onclose(handler) {
        this.#handler = handler;
        super.onclose = this.#give;
      }
    };
    const CuttableSource = globalThis.EventSource && class extends EventSource {
      #held = []; // what a proxy lets go of when the response ends
      #read;
      #fail;
      #breaks = () => {
        const fail = this.#fail;
        this.close();
        fail?.(new Event("error"));
      };
      // One queue here, too; what is closed gives nothing more.
      #give = network.#late((event) => (event.type === "error" ? this.#fail?.(event) : this.#read?.(event)));

      constructor(url, options) {
        super(url, options);
        network.#open.add(this.#breaks);
      }

      set onmessage(handler) {
        this.#read = handler;
        super.onmessage = (message) => {
          if (network.buffers) this.#held.push(message);
          else this.#give(message);
        };
      }

      set onerror(handler) {
        this.#fail = handler;
        super.onerror = (event) => {
          for (const message of this.#held.splice(0)) this.#give(message);
          this.#give(event);
        };
      }

      close() {
        super.close();
        this.#read = this.#fail = undefined;
        network.#open.delete(this.#breaks);
      }
    };
    return { fetch: (input, init) => this.#fetch(input, init), WebSocket: CuttableSocket, EventSource: CuttableSource };
  }

  /** The same messages in the same order, each a moment late. */
  #late(handler) {
    const queue = [];
    return (message) => {
      if (!this.slowMs && !queue.length) return handler(message);
      queue.push(message);
      return setTimeout(() => handler(queue.shift()), this.slowMs); // the oldest, should a timer overtake another
    };
  }

  async #fetch(input, init = {}) {
    const abort = new AbortController();
    const breaks = () => abort.abort(new TypeError("the network was cut"));
    init.signal?.addEventListener("abort", () => abort.abort(init.signal.reason), { once: true });
    this.#open.add(breaks);
    const forget = () => this.#open.delete(breaks);
    try {
      await wait(this.slowMs);
      const response = await fetch(input, { ...init, signal: abort.signal });
      const streams = (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
      if (!streams || !response.body) {
        forget();
        return response;
      }
      return new Response(this.#through(response.body, forget), response);
    } catch (error) {
      forget();
      throw error;
    }
  }

  #through(body, forget) {
    const reader = body.getReader();
    const held = [];
    let late; // the last chunk's delay: each is as late as the others, and none overtakes another
    const read = async (controller) => {
      for (;;) {
        const { done, value } = await reader.read();
        if (value) held.push(value);
        if (this.buffers && !done) continue;
        const chunks = held.splice(0);
        const before = late;
        late = (async () => {
          await wait(this.slowMs);
          await before;
          for (const chunk of chunks) controller.enqueue(chunk);
        })();
        late.catch(() => {}); // cut meanwhile: nobody reads on
        if (done) break;
      }
      await late;
      controller.close();
    };
    return new ReadableStream({
      start: (controller) => {
        read(controller).catch((error) => controller.error(error)).finally(forget);
      },
      cancel: (reason) => {
        forget();
        return reader.cancel(reason);
      },
    });
  }
}

const wait = (ms) => (ms ? new Promise((resolve) => { setTimeout(resolve, ms); }) : undefined);
