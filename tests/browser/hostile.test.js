// The client module and a server that does what none should: `MODULE=… node --test hostile.test.js`.
import assert from "node:assert/strict";
import http from "node:http";
import { mock } from "node:test";
import { test } from "./share.js";

const { chat, connect, fold, EventStreamParser } = await import(process.env.MODULE);

const settle = async () => { for (let i = 0; i < 6; i++) await new Promise((resolve) => { setImmediate(resolve); }); };
const sse = (text, headers = {}) => new Response(text, { headers: { "Content-Type": "text/event-stream", "X-Turn-Id": "turn_1", ...headers } });
const line = (event, id = event.id) => `id: ${id}\ndata: ${JSON.stringify(event)}\n\n`;
const piece = (id, content = "x") => line({ event: "message", id, content });
const poll = (events, next = "p-1", ended = false) => Response.json({ events, next, ended });

let hosts = 0;

/** Counts what is asked in a minute of a clock that the test moves, by a line that never gets what it wants. */
async function minute(start, answer) {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000 });
  const kept = { asked: 0, events: [], states: [] };
  try {
    const fetch = async (url) => {
      kept.asked++;
      const path = new URL(url).pathname;
      return path.endsWith("/config") ? Response.json(answer.config ?? {}) : answer(path, kept.asked);
    };
    const made = start({
      baseUrl: `http://hostile-${++hosts}.example`, network: { fetch, WebSocket: answer.WebSocket }, random: () => 0.5, token: answer.token,
      onEvent: (event) => kept.events.push(event), onState: (...state) => kept.states.push(state),
    });
    made.done?.catch((error) => { kept.error = error; });
    for (let i = 0; i < 6_000; i++) {
      mock.timers.tick(10);
      await (i % 10 ? Promise.resolve() : settle());
    }
    kept.state = made.state;
    made.close();
  } finally {
    mock.timers.reset();
  }
  return kept;
}

const LINES = {
  chat: (options) => chat({ ...options, userId: "u", botId: "b", message: "hi" }),
  "a turn": (options) => connect({ ...options, scope: "turns/turn_1" }),
  "a conversation": (options) => connect({ ...options, scope: "conversations/c" }),
  "a turn by long-poll": (options) => connect({ ...options, scope: "turns/turn_1", transports: ["longpoll"] }),
};

const asEvents = (path, answer, events) => (path.endsWith("/poll") ? poll(events) : answer);
let nth = 0;
const SERVERS = {
  "answers 200 and ends at once": () => new Response(""),
  "begins streams and ends them at once": (path) => asEvents(path, sse(""), []),
  "ends streams after a heartbeat": (path) => asEvents(path, sse(": ping\n\n"), []),
  "repeats one event for ever": (path) => asEvents(path, sse(piece("p-1")), [{ event: "message", id: "p-1", content: "x" }]),
  "repeats one event for ever, and wants to be asked again at once": (path) => asEvents(path, sse(`${piece("p-1")}retry: 0\n\n`), []),
  "resets in a loop": (path) => {
    const event = { event: "reset", id: `r-${++nth}`, reason: "unknown", content: "" };
    return asEvents(path, sse(`retry: 1\n\n${line(event)}`), [event]);
  },
  "has moved on without any event": (path) => (path.endsWith("/poll") ? poll([], `p-${++nth}`) : sse(`id: p-${++nth}\n\n`)),
  "says that nothing is left, and that the turn runs": (path) => {
    if (path.endsWith("/poll")) return poll([], "p-1", true);
    return path.endsWith("/turn_1") ? Response.json({ status: "running" }) : new Response(null, { status: 204 });
  },
  "answers with another type": () => new Response(piece("p-1"), { headers: { "Content-Type": "application/json" } }),
  "answers with almost the type": () => new Response(piece("p-1"), { headers: { "Content-Type": "text/event-streams" } }),
  "answers with a page": () => new Response("<h1>hello</h1>", { headers: { "Content-Type": "text/html" } }),
  "gives ids that no header carries": (path) => asEvents(path, sse(piece("\u4f60")), [{ event: "message", id: "\u4f60", content: "x" }]),
  "gives events that are none": (path) => asEvents(path, sse(line({ event: {}, id: "p-1" })), [{ event: 5 }]),
  "says that it is busy, for no time at all": () => Response.json({ code: "overloaded" }, { status: 503, headers: { "Retry-After": "0" } }),
  "says that streaming is off and on": (path) => (path.endsWith("/poll") || path.endsWith("/chat") ? new Response("", { status: 502 }) : Response.json({ code: "streaming_disabled" }, { status: 404 })),
};

for (const [how, server] of Object.entries(SERVERS)) {
  for (const [what, start] of Object.entries(LINES)) {
    test(`a server that ${how} is asked at most once a second on average: ${what}`, async () => {
      const kept = await minute(start, server);
      assert.ok(kept.asked <= 62, `${kept.asked} requests`);
      const ids = kept.events.filter(({ event }) => event !== "reset").map(({ id }) => id);
      assert.deepEqual(ids, [...new Set(ids)], "nothing is given twice");
      if (what !== "chat") assert.notEqual(kept.state, "closed");
    });
  }
}

for (const code of [1000, 1001, 1006, 1008, 1011, 1012, 1013, 4000]) {
  for (const before of [[], ['{"type":"pong"}'], ["{}", '{"event":"message","id":"p-1","content":"x"}']]) {
    test(`sockets that close at once with ${code} after ${before.length} messages flood nobody`, async () => {
      let sockets = 0;
      const server = (path) => (path.endsWith("/poll") ? poll([]) : new Response("", { status: 404 }));
      server.WebSocket = class {
        constructor() {
          sockets++;
          queueMicrotask(() => {
            this.readyState = 1;
            this.onopen?.();
            for (const data of before) this.onmessage?.({ data });
            this.onclose?.({ code });
          });
        }
        send() {}
        close() {}
      };
      const kept = await minute((options) => connect({ ...options, scope: "conversations/c", transports: ["websocket"] }), server);
      assert.ok(kept.asked + sockets <= 62, `${kept.asked} requests, ${sockets} sockets`);
    });
  }
}

test("a token that is refused again and again after a new event each time is not renewed in a loop", async () => {
  const server = (path) => asEvents(path, sse(`${piece(`p-${++nth}`)}: unauthorized\n\n`), []);
  server.token = () => "token";
  const kept = await minute(LINES["a turn"], server);
  assert.ok(kept.asked <= 90, String(kept.asked));
});

for (const config of [
  { heartbeatSeconds: 1e-9, retryMs: -1 }, { heartbeatSeconds: "x", retryMs: "x", transports: "sse", streaming: "no" }, { transports: [{}, null, "smoke"], retryMs: 1e308 },
  { transports: [], heartbeatSeconds: 1e9 }, [], null, 5,
]) {
  test(`a configuration of ${JSON.stringify(config)} is taken for what it is worth`, async () => {
    const server = (path) => asEvents(path, sse(`${piece("p-1", "all")}${line({ event: "completed", id: "p-2", turnId: "turn_1", content: "all" })}`), [
      { event: "message", id: "p-1", content: "all" }, { event: "completed", id: "p-2", turnId: "turn_1", content: "all" },
    ]);
    server.config = config;
    const kept = await minute(LINES["a turn"], server);
    assert.deepEqual(kept.events.map(({ event }) => event), ["message", "completed"]);
    assert.equal(kept.state, "closed");
  });
}

test("events are given in the server's order, each once, whatever their ids look like", async () => {
  const ids = ["p-9", "p-3", "p-3", "p-1", "p-9", "0", "", "p-2"];
  const stream = ids.map((id) => piece(id, `${id};`)).join("") + line({ event: "completed", id: "p-0", turnId: "turn_1", content: "" });
  const kept = await minute(LINES["a turn"], (path) => asEvents(path, sse(stream), []));
  assert.deepEqual(kept.events.slice(0, -1).map(({ id }) => id), ["p-9", "p-3", "p-1", "0", "", "p-2"]);
});

test("a long answer that a server tells anew is given once", async () => {
  const stream = Array.from({ length: 15_000 }, (_, i) => piece(`p-${i}`, "x")).join("");
  let streams = 0;
  const end = line({ event: "completed", id: "p-end", turnId: "turn_1", content: "x".repeat(15_000) });
  const kept = await minute(LINES["a turn"], (path) => asEvents(path, sse(streams++ ? stream + end : stream), []));
  assert.equal(kept.events.length, 15_001);
});

test("what is no text adds nothing to an answer", () => {
  for (const content of [undefined, null, {}, 5, ["x"]]) {
    assert.equal(fold("so far", { event: "message", content }), "so far");
    assert.equal(fold("so far", { event: "message", content, replace: true }), "so far");
  }
});

/** A server of which each connection is written to for ever. */
async function endless(head, body, use) {
  const sockets = new Set();
  let bytes = 0;
  const server = http.createServer((request, response) => {
    const { socket } = request;
    sockets.add(socket);
    if (request.url.endsWith("/config")) return response.end("{}");
    if (head) socket.write(head);
    const write = () => {
      while (!socket.destroyed && socket.write(body)) bytes += body.length;
      if (!socket.destroyed) socket.once("drain", write);
    };
    socket.on("error", () => {});
    return write();
  });
  await new Promise((resolve) => { server.listen(0, "127.0.0.1", resolve); });
  try {
    await use(`http://127.0.0.1:${server.address().port}`, () => bytes);
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => { server.close(resolve); });
  }
}

const FAST = { firstByteMs: 300, penaltyMs: 300, backoffMaxMs: 300, requestMs: 1_000, configMs: 300 };
const STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
for (const [what, head, body] of [
  ["a head without an end", "HTTP/1.1 200 OK\r\n", `X-More: ${"x".repeat(1_000)}\r\n`],
  ["an event without an end", STREAM, `data: ${"x".repeat(2 ** 20)}`],
  ["an event of lines without an end", STREAM, `data: ${"x".repeat(2 ** 16)}\n`],
  ["an error without an end", "HTTP/1.1 500 Oh no\r\nConnection: close\r\n\r\n", "x".repeat(2 ** 20)],
]) {
  test(`${what} is left, and costs a bounded memory`, async () => {
    await endless(head, body, async (baseUrl) => {
      const states = [];
      let most = 0;
      const watch = setInterval(() => { most = Math.max(most, process.memoryUsage().rss); }, 20);
      const before = process.memoryUsage().rss;
      const made = connect({ baseUrl, scope: "turns/t", transports: ["sse"], timing: FAST, onState: (state) => states.push(state) });
      while (states.filter((state) => state === "waiting").length < 1) await new Promise((resolve) => { setTimeout(resolve, 20); });
      made.close();
      clearInterval(watch);
      assert.ok(most - before < 400 * 2 ** 20, `${Math.round((most - before) / 2 ** 20)} MiB`);
    });
  });
}

/** What comes of one question whose whole answer is `body`; `GET turns/ID` says the same. */
async function wholeAnswer(body, status = 200) {
  const kept = { asked: [], events: [] };
  const fetch = async (url) => {
    kept.asked.push(new URL(url).pathname);
    return kept.asked.at(-1).endsWith("/config") ? Response.json({ streaming: false }) : Response.json(body, { status });
  };
  const made = chat({
    baseUrl: `http://hostile-${++hosts}.example`, network: { fetch }, userId: "u", botId: "b", message: "hi", timing: { asks: 1 },
    onEvent: (event) => kept.events.push(event),
  });
  kept.last = await made.done.catch((error) => error);
  return kept;
}

for (const junk of [5, "text", {}, [{}, null, 5], null]) {
  test(`a whole answer with ${JSON.stringify(junk)} for what it should hold ends all the same`, async () => {
    const { last, events } = await wholeAnswer({ turnId: "t", status: "completed", content: "all", reasoning: junk, suggestions: junk, usage: junk });
    assert.equal(last.event, "completed");
    assert.equal(last.content, "all");
    const texts = events.filter(({ event }) => event === "reasoning" || event === "suggestion").map(({ content }) => content);
    assert.ok(texts.every((text) => typeof text === "string"), JSON.stringify(texts));
    const failed = await wholeAnswer({ turnId: "t", status: "failed", content: [junk], error: junk });
    assert.deepEqual(failed.last, { event: "error", error: "", code: "internal", retryable: false, conversationId: undefined, turnId: "t", content: "" });
  });
  test(`a problem with ${JSON.stringify(junk)} for its sentence says a sentence`, async () => {
    const { last } = await wholeAnswer({ code: "invalid_request", detail: junk, title: junk }, 422);
    assert.equal(last.message, typeof junk === "string" ? junk : "The gateway answered 422.");
  });
}

test("the record of a turn is asked for below its own address, whatever its id is", async () => {
  const { asked, last } = await wholeAnswer({ turnId: "../../x?y#z", code: "upstream_failed" }, 502);
  assert.equal(last.event, "error");
  assert.deepEqual(asked.slice(1), ["/api/coze/chat", "/api/coze/turns/..%2F..%2Fx%3Fy%23z"]);
});

test("an event of empty lines without an end costs no more than one of characters", () => {
  const parser = new EventStreamParser({ onEvent: () => {} });
  const lines = "data:\n".repeat(2 ** 18);
  let pushed = 0;
  assert.throws(() => { for (; pushed < 64; pushed++) parser.push(lines); }, RangeError);
  assert.ok(pushed <= 16, String(pushed));
});
