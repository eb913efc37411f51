// The client module while nobody answers, on a clock that the test moves: `MODULE=… node --test away.test.js`.
import assert from "node:assert/strict";
import { mock } from "node:test";
import { test } from "./share.js";

const { chat, connect, fold } = await import(process.env.MODULE);

const settle = async () => { for (let i = 0; i < 6; i++) await new Promise((resolve) => { setImmediate(resolve); }); };

/** Moves the clock to `until`, or to when `done()`. @returns when that was */
async function advance(until, done = () => false) {
  while (Date.now() < until && !done()) {
    mock.timers.tick(10);
    await settle();
  }
  return Date.now();
}

/** Numbers from 0 to 1, the same each time. */
function seeded(seed) {
  let state = seed * 2_654_435_761 % 2 ** 32;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const REFUSAL = { type: "about:blank", title: "Origin not allowed", status: 403, detail: "not allowed", code: "forbidden_origin" };

let places = 0;

/** A gateway that can go away: whoever asks then is `refused`, or hears nothing (`silent`), or a `proxy` says 502. */
class Place {
  base = `http://place-${++places}.example`;
  away = undefined;
  asked = []; // when what was asked for
  open = 0;
  most = 0; // requests at once
  #streams = new Set();

  constructor() {
    const place = this;
    this.network = {
      fetch: (url, init) => place.#asked(new URL(url).pathname.split("/").at(-1), init?.signal, () => place.#answer(String(url))),
      WebSocket: class {
        readyState = 0;
        constructor() {
          place.#asked("ws", undefined, () => {
            if (!place.blocked?.includes("ws")) throw new Error("no socket is needed here");
            throw new TypeError("refused");
          }).catch(() => { this.onclose?.({ code: 1006 }); });
        }
        send() {}
        close() {}
      },
    };
  }

  async #asked(what, signal, answer) {
    this.asked.push([Date.now(), what]);
    this.most = Math.max(this.most, ++this.open);
    try {
      if (this.away === "silent") await new Promise((_, reject) => { signal?.addEventListener("abort", () => reject(signal.reason)); });
      await Promise.resolve();
      if (this.away === "refused" || this.blocked?.includes(what)) throw new TypeError("fetch failed");
      if (this.away === "proxy") return new Response("<h1>Bad gateway</h1>", { status: 502 });
      if (this.forbids) return Response.json(REFUSAL, { status: 403 });
      return answer();
    } finally {
      this.open--;
    }
  }

  #answer(url) {
    if (url.includes("/config")) return Response.json({});
    if (url.includes("/poll")) return Response.json({ events: [], next: "p-0", ended: false });
    const stream = new ReadableStream({
      start: (controller) => {
        this.#streams.add(controller);
        controller.enqueue(new TextEncoder().encode("retry: 2000\n\n"));
      },
    });
    return new Response(stream, { headers: { "Content-Type": "text/event-stream", "X-Turn-Id": "turn_1", "X-Conversation-Id": "conv_1" } });
  }

  say(event) {
    for (const stream of this.#streams) stream.enqueue(new TextEncoder().encode(`id: ${event.id}\ndata: ${JSON.stringify(event)}\n\n`));
  }

  leave(how) {
    this.away = how;
    for (const stream of this.#streams) stream.error(new TypeError("network error"));
    this.#streams.clear();
  }

  /** How often was asked from `from` on, and until `until`. */
  count(from, until = Infinity) { return this.asked.filter(([at]) => at >= from && at < until).length; }
}

/** A test on a clock that starts at 1 s and moves only by `advance`. */
function timed(name, body) {
  test(name, async () => {
    mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000 });
    try {
      await body();
    } finally {
      mock.timers.reset();
    }
  });
}

function ask(place, seed, options = {}) {
  const kept = { states: [], text: "" };
  const { network, base: baseUrl } = place;
  kept.line = chat({
    baseUrl, network, random: seeded(seed), userId: "u", botId: "b", message: "hi", ...options,
    onEvent: (event) => { kept.text = fold(kept.text, event); },
    onState: (state, detail) => kept.states.push([state, detail]),
  });
  return kept;
}

const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1];

for (const how of ["refused", "silent", "proxy"]) {
  timed(`away for 8 s (${how}), the gateway is asked at most once a second, one at a time, and found again soon`, async () => {
    const late = [];
    for (let seed = 1; seed <= 21; seed++) {
      const place = new Place();
      const kept = ask(place, seed);
      await advance(Date.now() + 100, () => kept.line.state === "open");
      place.say({ event: "message", id: "p-1", content: "one " });
      await settle();
      const left = Date.now();
      place.leave(how);
      await advance(left + 8_000);
      const asked = place.count(left);
      assert.ok(asked >= 2 && asked <= 8, `${asked} requests: ${JSON.stringify(place.asked)}`);
      assert.equal(place.most, 1);
      const delays = kept.states.filter(([state, { reason }]) => state === "waiting" && reason !== "network error").map(([, { delayMs }]) => delayMs);
      assert.ok(delays[0] >= 500 && delays[0] <= 1_000 && (how === "silent" || delays.at(-1) > delays[0]), String(delays));
      place.away = undefined;
      const back = await advance(left + 30_000, () => kept.line.state === "open");
      late.push(back - left - 8_000);
      assert.equal(place.asked.at(-1)[1], "events", "the transport that it had");
      place.say({ event: "completed", id: "p-2", turnId: "turn_1", conversationId: "conv_1", content: "one two" });
      await settle();
      assert.equal((await kept.line.done).event, "completed");
    }
    assert.ok(median(late) <= 5_000 && Math.max(...late) <= 10_000, String(late));
  });

  timed(`away from the start (${how}), a question is given up after a minute and a listener is not`, async () => {
    const place = new Place();
    place.away = how;
    const kept = ask(place, 3);
    let failure;
    kept.line.done.catch((error) => { failure = error; });
    const listener = connect({ baseUrl: place.base, network: place.network, scope: "conversations/c", random: seeded(4) });
    const began = Date.now();
    await advance(began + 45_000);
    assert.equal(failure, undefined);
    assert.ok(place.count(began) <= 45, "both together no more than one a second");
    await advance(began + 80_000, () => failure);
    assert.equal(failure?.code, how === "proxy" ? "unknown" : "unreachable");
    assert.equal(listener.state === "closed", false);
    place.away = undefined;
    const back = Date.now();
    assert.ok((await advance(back + 20_000, () => listener.state === "open")) - back <= 10_000);
    listener.close();
  });
}

timed("a gateway that is back after a second is found within three", async () => {
  for (let seed = 1; seed <= 21; seed++) {
    const place = new Place();
    const kept = ask(place, seed);
    await advance(Date.now() + 100, () => kept.line.state === "open");
    const left = Date.now();
    place.leave("refused");
    await advance(left + 1_000);
    place.away = undefined;
    assert.ok((await advance(left + 9_000, () => kept.line.state === "open")) - left <= 3_000);
    kept.line.close();
  }
});

timed("a returning network, a tab that is seen, and retryNow() try at once", async () => {
  const page = new EventTarget();
  const tab = new EventTarget();
  tab.visibilityState = "visible";
  for (const name of ["addEventListener", "removeEventListener"]) globalThis[name] = (...given) => page[name](...given);
  globalThis.document = tab;
  try {
    for (const nudge of [
      () => page.dispatchEvent(new Event("online")), () => tab.dispatchEvent(new Event("visibilitychange")), (line) => line.retryNow(),
    ]) {
      for (const start of [(place) => ask(place, 5).line, (place) => connect({ baseUrl: place.base, network: place.network, scope: "turns/t", random: () => 0.9 })]) {
        const place = new Place();
        place.away = "refused";
        const line = start(place);
        await advance(Date.now() + 20_000);
        await advance(Date.now() + 20_000, () => Date.now() - place.asked.at(-1)[0] === 1_500); // in the middle of a pause
        assert.equal(line.state, "waiting");
        nudge(line);
        await settle();
        assert.equal(place.asked.at(-1)[0], Date.now(), "asked at once");
        const from = Date.now();
        await advance(from + 1_100);
        assert.ok(place.count(from) >= 2, "and soon again");
        for (let i = 0; i < 100; i++) { // somebody drums on the button
          nudge(line);
          await advance(Date.now() + 100);
        }
        assert.ok(place.count(from) <= 13, String(place.count(from)));
        place.away = undefined;
        await advance(Date.now() + 1_100);
        nudge(line);
        await settle();
        assert.equal(line.state, "open");
        line.close();
      }
    }
  } finally {
    for (const name of ["addEventListener", "removeEventListener", "document"]) delete globalThis[name];
  }
});

timed("a machine that slept for an hour while nobody answered gives its question up no sooner", async () => {
  const place = new Place();
  place.away = "refused";
  const kept = ask(place, 3);
  let failure;
  kept.line.done.catch((error) => { failure = error; });
  await advance(Date.now() + 5_000);
  mock.timers.setTime(Date.now() + 3_600_000);
  await advance(Date.now() + 10_000);
  assert.equal(failure, undefined);
  place.away = undefined;
  await advance(Date.now() + 10_000, () => kept.line.state === "open");
  assert.equal(kept.line.state, "open");
  kept.line.close();
});

timed("twenty lines of a page ask no more often than one, and all are back when one is answered", async () => {
  const place = new Place();
  const lines = Array.from({ length: 20 }, (_, i) => connect({
    baseUrl: place.base, network: place.network, scope: `turns/t${i}`, transports: ["sse"], random: seeded(i),
  }));
  await advance(Date.now() + 100);
  assert.ok(lines.every(({ state }) => state === "open"));
  const left = Date.now();
  place.leave("refused");
  await advance(left + 3_000);
  const from = Date.now();
  await advance(from + 20_000);
  assert.ok(place.count(from) <= 21, String(place.count(from)));
  place.away = undefined;
  await advance(Date.now() + 10_000, () => lines.some(({ state }) => state === "open"));
  await advance(Date.now() + 50);
  assert.ok(lines.every(({ state }) => state === "open"));
  for (const line of lines) line.close();
});

timed("where somebody answers, a transport that nobody answers is left for the next one at once", async () => {
  const place = new Place();
  place.blocked = ["stream", "events", "ws"];
  const line = connect({ baseUrl: place.base, network: place.network, scope: "turns/t", random: seeded(1) });
  await advance(Date.now() + 100, () => line.state === "open");
  assert.deepEqual([line.state, line.transport], ["open", "longpoll"]);
  line.close();
});

timed("where the configuration alone is out of reach, a connection is made all the same", async () => {
  for (const scope of ["turns/t", "conversations/c"]) {
    const place = new Place();
    place.blocked = ["config"];
    const line = connect({ baseUrl: place.base, network: place.network, scope, random: seeded(1) });
    await advance(Date.now() + 10_000, () => line.state === "open");
    assert.deepEqual([line.state, line.transport], ["open", "sse"]);
    line.close();
  }
});

timed("a page whose origin is not allowed is told so, with the setting that lacks it", async () => {
  globalThis.origin = "https://shop.example";
  globalThis.location = { origin: "not this one, which a file has too", href: "https://shop.example/" };
  try {
    for (const start of [
      (place, onState) => ask(place, 1, { onState }),
      (place, onState) => connect({ baseUrl: place.base, network: place.network, scope: "conversations/c", onState, random: seeded(2) }),
    ]) {
      const place = new Place();
      place.forbids = true;
      const states = [];
      const kept = start(place, (state, detail) => states.push([state, detail]));
      let failure;
      kept.line?.done.catch((error) => { failure = error; });
      await advance(Date.now() + 10_000, () => (kept.states ?? states).at(-1)?.[0] === "closed");
      const all = kept.states ?? states;
      assert.equal(all.find(([state]) => state === "waiting")[1].reason, "forbidden_origin");
      const { error } = all.at(-1)[1];
      assert.equal(error.code, "forbidden_origin");
      assert.match(error.message, /https:\/\/shop\.example.*GATEWAY_ALLOWED_ORIGINS/);
      assert.ok(place.asked.every(([, what]) => what === "config"), "and nothing else is asked");
      if (kept.line) assert.equal(failure, error);
    }
  } finally {
    delete globalThis.origin;
    delete globalThis.location;
  }
});

timed("what the gateway asked to wait for is marked, and retryNow() leaves it", async () => {
  const place = new Place();
  place.network.fetch = async (url) => {
    if (String(url).includes("/config")) return Response.json({});
    place.asked.push([Date.now(), "question"]);
    return Response.json({ code: "rate_limited", status: 429 }, { status: 429, headers: { "Retry-After": "30" } });
  };
  const kept = ask(place, 1);
  await advance(Date.now() + 100, () => kept.line.state === "waiting");
  assert.deepEqual([kept.states.at(-1)[1].reason, kept.states.at(-1)[1].asked], ["rate_limited", true]);
  kept.line.retryNow();
  await advance(Date.now() + 29_000);
  assert.equal(place.asked.length, 1);
  kept.line.close();
});
