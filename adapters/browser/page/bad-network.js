/**
 * A network that is bad on purpose. The client module uses its `fetch`, `WebSocket` and `EventSource`, which cut, slow
 * down, hold back and refuse connections, as real networks and proxies do.
 */
export class BadNetwork {
  slowMs = 0;
  buffers = false;
  refusesWebSocket = false;
  onCut = () => {};
  #open = new Set(); // one function for each open connection, which breaks it
  #cutting;

  /** Breaks all open connections. @returns how many there were */
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

  /** The `network` that is given to the client module. */
  parts() {
    const network = this;
    const CuttableSocket = class extends WebSocket {
      #handler; // the handler of the close event
      #breaks = () => {
        this.#handler?.(new CloseEvent("close", { code: 1006 })); // as a network breaks it: after its own `close()` it would be 1000
        this.#handler = this.#read = undefined;
        this.close();
      };

      constructor(url, protocols) {
        super(url, protocols);
        if (network.refusesWebSocket) return this.close();
        network.#open.add(this.#breaks);
        this.addEventListener("close", () => network.#open.delete(this.#breaks));
      }

      // One queue for both, because the end of a connection must not overtake its messages.
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
      #held = []; // what a proxy holds back until the response ends
      #read;
      #fail;
      #breaks = () => {
        const fail = this.#fail;
        this.close();
        fail?.(new Event("error"));
      };
      // One queue here, too. After the close nothing more is delivered.
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

  /** Delivers the same messages in the same order, each a moment later. */
  #late(handler) {
    const queue = [];
    return (message) => {
      if (!this.slowMs && !queue.length) return handler(message);
      queue.push(message);
      return setTimeout(() => handler(queue.shift()), this.slowMs); // the oldest message, even if one timer overtakes another
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
    let late; // the last chunk's delay: all chunks have the same, so none overtakes another
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
        late.catch(() => {}); // the connection was cut meanwhile, and nobody reads on
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
