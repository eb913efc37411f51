// The client module against the stub gateway: `STUB_URL=… MODULE=… node --experimental-websocket --test client.test.js`.
import assert from "node:assert/strict";
import { test } from "./share.js";

const { chat, connect, conversations, run, upload, fold, EventStreamParser, GatewayError } = await import(process.env.MODULE);
const STUB = process.env.STUB_URL;
const FAST = { firstByteMs: 400, penaltyMs: 300, backoffMaxMs: 500, quietAfterMs: 50 };
const LONG = Array.from({ length: 60 }, (_, i) => `word${i} 你好 `).join("");

let worlds = 0;

/** A world of its own on the stub, behaving as told. */
async function world(manners = {}) {
  const base = `${STUB}/w/${process.pid}-${++worlds}`;
  const tell = async (more) => {
    const response = await fetch(`${base}/stub`, { method: "POST", body: JSON.stringify(more) });
    assert.equal(response.status, 200, await response.clone().text());
    return response.json();
  };
  await tell(manners);
  return { base, tell, seen: async () => (await (await fetch(`${base}/stub`)).json()) };
}

/** Asks, keeps everything, and checks what must always hold. */
function ask(w, options = {}) {
  return keep(w, chat, { botId: "b", message: "hi", ...options });
}

function keep(w, begin, options) {
  const kept = { events: [], states: [], text: "", transports: [] };
  const line = begin({
    baseUrl: w.base, userId: "u", timing: FAST, ...options,
    onEvent: (event) => {
      kept.events.push(event);
      kept.text = fold(kept.text, event);
      if (line.transport && kept.transports.at(-1) !== line.transport) kept.transports.push(line.transport);
      options.onEvent?.(event);
    },
    onState: (state, detail) => kept.states.push([state, detail]),
  });
  return Object.assign(kept, { line, done: line.done });
}

async function exact(kept, answer) {
  const last = await kept.done;
  assert.equal(last.event, "completed");
  assert.equal(kept.text, answer);
  let joined = "";
  for (const event of kept.events.slice(0, -1)) joined = fold(joined, event);
  assert.equal(joined, answer, "the pieces alone give the whole");
  const ids = kept.events.map((event) => event.id).filter(Boolean);
  assert.deepEqual(ids, [...new Set(ids)], "no event twice");
  assert.deepEqual(ids, [...ids].sort((a, b) => a.split("-")[1] - b.split("-")[1]), "in order");
  assert.equal(kept.states.at(-1)[0], "closed");
  return last;
}

for (const first of ["sse", "websocket", "longpoll"]) {
  test(`an answer comes whole over ${first}`, async () => {
    const w = await world({ answer: LONG, delay: 0.002 });
    const kept = ask(w, { transports: [first] });
    await exact(kept, LONG);
    assert.deepEqual(kept.transports, [first]);
    assert.ok(kept.line.turnId.startsWith("turn_") && kept.line.conversationId.startsWith("conv_"));
    assert.equal((await w.seen()).turns, 1);
  });

  test(`an answer over ${first} that is cut again and again is exact`, async () => {
    const w = await world({ answer: LONG, delay: 0.004, cuts: 6, cut_after: 9 });
    const kept = ask(w, { transports: [first] });
    await exact(kept, LONG);
    assert.equal((await w.seen()).turns, 1);
  });
}

for (const [how, options] of Object.entries({
  sse: { transports: ["sse"] }, websocket: { transports: ["websocket"] }, longpoll: { transports: ["longpoll"] },
  "whole answer": { streaming: false },
})) {
  test(`a workflow runs over ${how}, and through cuts`, async () => {
    const w = await world({ answer: LONG, delay: 0.002, cuts: how === "whole answer" ? 0 : 3, cut_after: 9 });
    const kept = keep(w, run, { workflowId: "7/5", parameters: { city: "上海" }, ...options });
    await exact(kept, LONG);
    assert.equal((await w.seen()).turns, 1);
    if (how === "whole answer") assert.equal(kept.events[0].input, '{"city":"上海"}');
  });
}

test("a workflow needs an id", () => {
  assert.throws(() => run({ baseUrl: STUB, userId: "u" }), TypeError);
});

test("a proxy that buffers the stream is noticed and the next transport goes on", async () => {
  const w = await world({ answer: LONG, delay: 0.02, buffer_sse: true });
  const kept = ask(w, { timing: { ...FAST, penaltyMs: 60_000 } });
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["websocket"]);
  assert.equal((await w.seen()).turns, 1, "the question was sent twice under one key");
});

test("with the stream buffered and WebSocket refused, long-poll carries the answer", async () => {
  const w = await world({ answer: LONG, delay: 0.02, buffer_sse: true, refuse_ws: true });
  const kept = ask(w, { timing: { ...FAST, penaltyMs: 60_000 } });
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["longpoll"]);
});

test("a WebSocket that opens and says nothing is left", async () => {
  const w = await world({ answer: LONG, delay: 0.02, mute_ws: true });
  const kept = ask(w, { transports: ["websocket", "longpoll"] });
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["longpoll"]);
});

test("it goes back to the better transport when that heals, in the middle of an answer", async () => {
  const w = await world({ answer: LONG, delay: 0.03, refuse_sse: 502 });
  const kept = ask(w);
  setTimeout(() => w.tell({ refuse_sse: 0 }), 300);
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["websocket", "sse"]);
});

test("a lesson about a transport is kept for the next question", async () => {
  const w = await world({ answer: LONG, buffer_sse: true });
  const timing = { ...FAST, penaltyMs: 60_000 };
  await exact(ask(w, { timing }), LONG);
  const before = (await w.seen()).seen.length;
  await exact(ask(w, { timing }), LONG);
  const posts = (await w.seen()).seen.slice(before).filter((request) => request.transport === "post");
  assert.deepEqual(posts.map((request) => request.path), ["chat"]);
});

test("a question lost on its way back is asked under the same key", async () => {
  const w = await world({ lose_post: 2 });
  await exact(ask(w, { transports: ["sse"] }), "Hello **world**, this is the *stub*.");
  const { seen, turns } = await w.seen();
  assert.equal(turns, 1);
  assert.equal(new Set(seen.filter((request) => request.transport === "post").map((request) => request.key)).size, 1);
});

test("events that a gateway repeats are given once", async () => {
  const w = await world({ answer: LONG, delay: 0.004, cuts: 5, cut_after: 9, repeat: true });
  await exact(ask(w, { transports: ["sse"] }), LONG);
});

test("a busy gateway is asked again after Retry-After", async () => {
  const w = await world({ busy: 1, retry_after: "1" });
  const began = Date.now();
  const kept = ask(w);
  await exact(kept, "Hello **world**, this is the *stub*.");
  assert.ok(Date.now() - began >= 1_000);
  assert.ok(kept.states.some(([state, detail]) => state === "waiting" && detail.delayMs >= 1_000));
});

test("told to come back, it waits for the advised time", async () => {
  const w = await world({ answer: LONG, delay: 0.004, told: 1, told_retry: 700 });
  const kept = ask(w, { transports: ["sse"] });
  await exact(kept, LONG);
  const [, detail] = kept.states.find(([state]) => state === "waiting");
  assert.ok(detail.delayMs >= 700 && detail.delayMs <= 770, String(detail.delayMs));
});

test("the delays between tries are longest at `backoffMaxMs`, and `asks` of those are waited for an answer", async () => {
  const delays = [];
  const line = chat({
    baseUrl: "http://127.0.0.1:9", userId: "u", botId: "b", message: "hi", transports: ["sse"],
    timing: { ...FAST, backoffMaxMs: 40, asks: 4 }, onState: (state, { delayMs }) => state === "waiting" && delays.push(delayMs),
  });
  const began = performance.now();
  await assert.rejects(line.done, (error) => error instanceof GatewayError && error.code === "unreachable");
  assert.ok(performance.now() - began >= 160);
  assert.ok(delays.length >= 3 && delays.every((delay) => delay >= 20 && delay <= 40), String(delays));
});

test("a reset replaces what is shown", async () => {
  const w = await world({ answer: LONG, delay: 0.004, cuts: 1, cut_after: 12, reset: true });
  const kept = ask(w, { transports: ["sse"] });
  const last = await kept.done;
  assert.equal(last.content, LONG);
  assert.equal(kept.text, LONG);
  assert.equal(kept.events.filter((event) => event.event === "reset").length, 1);
});

test("where streaming is off, the older way answers by itself", async () => {
  const w = await world({ streaming: false, suggestions: ["more?"], reasoning: "because" });
  const kept = ask(w);
  const last = await kept.done;
  assert.equal(last.event, "completed");
  assert.deepEqual(kept.events.map((event) => event.event), ["started", "reasoning", "message", "suggestion", "completed"]);
  assert.deepEqual((await w.seen()).seen.map((request) => request.path), ["chat"]);
});

test("where nothing can read a stream, the older way answers by itself", async () => {
  const w = await world({});
  const body = Object.getOwnPropertyDescriptor(Response.prototype, "body");
  delete Response.prototype.body; // what a browser without readable streams looks like; Node itself needs the class
  try {
    const asked = ask(w);
    assert.equal((await asked.done).event, "completed");
    assert.deepEqual((await w.seen()).seen.map((request) => request.path), ["chat"]);
  } finally {
    Object.defineProperty(Response.prototype, "body", body);
  }
});

for (const streaming of [true, false]) {
  test(`a turn that asks the user something says so, ${streaming ? "streamed" : "in the older way"}`, async () => {
    const last = await ask(await world({ asks: true, streaming })).done;
    assert.deepEqual([last.event, last.awaitingReply], ["completed", true]);
    const other = await ask(await world({ streaming })).done;
    assert.ok(!("awaitingReply" in other));
  });
}

test("an answer that failed resolves with its error", async () => {
  const w = await world({ fail: { code: "upstream_failed", error: "Coze broke off." } });
  const last = await ask(w).done;
  assert.equal(last.event, "error");
  assert.equal(last.code, "upstream_failed");
});

for (const older of ["by the gateway", "by the caller"]) {
  test(`the older way, wanted ${older}, tells of tools that are waited for, and goes on once they are given`, async () => {
    const call = { id: "call_1", type: "function", function: { name: "weather", arguments: "{}" } };
    const w = await world({ answer: LONG, delay: 0.002, tools: [call], streaming: older !== "by the gateway" });
    const kept = ask(w, {
      streaming: older !== "by the caller",
      onEvent: async (event) => {
        if (event.event !== "action_required") return;
        assert.equal(kept.line.state, "open");
        const body = JSON.stringify({ toolOutputs: [{ toolCallId: event.toolCalls[0].id, output: "sun" }] });
        await fetch(`${w.base}/api/coze/turns/${kept.line.turnId}/tool-outputs`, { method: "POST", body });
      },
    });
    await exact(kept, LONG);
    const asked = kept.events.filter((event) => event.event === "action_required");
    assert.deepEqual(asked.map((event) => event.toolCalls), [[call]]);
    const { seen, turns } = await w.seen();
    assert.deepEqual([...new Set(seen.map((request) => request.transport))], ["post", "longpoll"]);
    assert.equal(turns, 1);
  });
}

for (const [code, retryable] of [["upstream_unauthorized", false], ["upstream_rate_limited", true], ["internal", true]]) {
  test(`an ${code} of the older way says what the stream would have said`, async () => {
    const fail = { code, retryable, error: "Coze said no.", upstream: { code: 4100, logId: "log" } };
    const w = await world({ answer: LONG, delay: 0, fail });
    const [streamed, whole] = [ask(w), ask(w, { streaming: false })];
    const { id, conversationId, turnId, ...said } = await streamed.done;
    const { conversationId: conversation, turnId: turn, ...last } = await whole.done;
    assert.ok(said.content.length > 100);
    assert.deepEqual(last, said);
    assert.deepEqual([conversation, turn], [whole.line.conversationId, whole.line.turnId]);
    assert.ok(turn.startsWith("turn_") && conversation.startsWith("conv_") && turn !== turnId && conversation !== conversationId);
    assert.deepEqual(whole.events, [
      { event: "started", conversationId: conversation, turnId: turn, input: "hi" },
      { event: "message", content: last.content },
      { ...last, conversationId: conversation, turnId: turn },
    ]);
  });
}

test("a question that is refused rejects with what the gateway said", async () => {
  const w = await world({});
  const kept = ask(w, { message: "" });
  await assert.rejects(kept.done, (error) => error.status === 422 && error.code === "invalid_request" && /stub says/.test(error.message));
  assert.equal(kept.states.at(-1)[0], "closed");
});

test("cancel ends the turn, close only the listening", async () => {
  const w = await world({ answer: LONG, delay: 0.02 });
  const first = ask(w);
  await first.line.cancel();
  assert.equal((await first.done).event, "cancelled");
  const second = ask(w);
  while (!second.line.turnId) await new Promise((resolve) => { setTimeout(resolve, 10); });
  second.line.close();
  await assert.rejects(second.done, { name: "AbortError" });
  const record = await (await fetch(`${w.base}/api/coze/turns/${second.line.turnId}`)).json();
  assert.equal(record.status, "running");
});

test("cancel reaches a turn that is asked for the older way", async () => {
  const w = await world({ answer: LONG, delay: 0.05, streaming: false });
  const kept = ask(w);
  while (!(await w.seen()).turns) await new Promise((resolve) => { setTimeout(resolve, 10); });
  await kept.line.cancel();
  const last = await kept.done;
  assert.equal(last.event, "cancelled");
  assert.ok(last.turnId && last.conversationId && LONG.startsWith(last.content));
  assert.equal((await w.seen()).turns, 1);
});

/** Stops, and sees that the user's end comes at once and that nothing is asked from then on. */
async function stopsAtOnce(kept, asked, within = 150) {
  const [before, began] = [await asked(), performance.now()];
  const heard = kept.line.cancel();
  const last = await kept.done;
  const took = performance.now() - began;
  assert.ok(took < within, `${took} ms`);
  assert.deepEqual([last.event, last.content, kept.events.at(-1)], ["cancelled", "", last]);
  assert.deepEqual([kept.line.state, kept.states.at(-1)[0], kept.states.at(-1)[1].error], ["closed", "closed", undefined]);
  await heard;
  await new Promise((resolve) => { setTimeout(resolve, 400); });
  assert.deepEqual(await asked(), before, "something was asked after the stop");
}

for (const options of [{}, { transports: ["longpoll"] }, { streaming: false }]) {
  test(`a stop while the gateway is down ends at once: ${JSON.stringify(options)}`, async () => {
    let asked = 0;
    const w = { base: "http://gateway.example" };
    const dead = async () => { asked++; throw new TypeError("fetch failed"); };
    const kept = ask(w, { ...options, network: { fetch: dead }, random: () => 0.9, timing: { backoffMaxMs: 100_000 } });
    while (kept.line.state !== "waiting") await new Promise((resolve) => { setTimeout(resolve, 5); });
    assert.equal(kept.states.at(-1)[1].reason, "unreachable");
    assert.ok(kept.states.at(-1)[1].delayMs > 900);
    await stopsAtOnce(kept, () => asked);
  });

  test(`a stop while a busy gateway is waited for ends at once: ${JSON.stringify(options)}`, async () => {
    const w = await world({ busy: 9, busy_code: "rate_limited", retry_after: "60" });
    const kept = ask(w, options);
    while (kept.line.state !== "waiting") await new Promise((resolve) => { setTimeout(resolve, 5); });
    assert.equal(kept.states.at(-1)[1].reason, "rate_limited");
    assert.ok(kept.states.at(-1)[1].delayMs >= 60_000);
    await stopsAtOnce(kept, async () => (await w.seen()).seen.length);
  });

  test(`a stop of a question that the gateway holds ends soon, and its turn is cancelled: ${JSON.stringify(options)}`, async () => {
    const w = await world({ answer: LONG, delay: 0.05, hold_post: 0.8 });
    const kept = ask(w, { ...options, timing: { ...FAST, stopMs: 60 } });
    while (!(await w.seen()).turns) await new Promise((resolve) => { setTimeout(resolve, 5); });
    const began = performance.now();
    const heard = kept.line.cancel();
    assert.equal((await kept.done).event, "cancelled");
    assert.ok(performance.now() - began < 300);
    await heard;
    const record = async () => (await fetch(`${w.base}/api/coze/turns/${kept.line.turnId}`)).json();
    while ((await record()).status === "running") await new Promise((resolve) => { setTimeout(resolve, 20); });
    assert.equal((await record()).status, "cancelled");
    assert.equal((await w.seen()).turns, 1);
    assert.equal(kept.events.length, 1);
  });
}

test("a stop before anything was asked asks nothing", async () => {
  const w = await world({});
  const kept = ask(w);
  await kept.line.cancel();
  assert.equal((await kept.done).event, "cancelled");
  await new Promise((resolve) => { setTimeout(resolve, 100); });
  assert.deepEqual((await w.seen()).seen, []);
  assert.deepEqual(kept.states.map(([state]) => state), ["closed"]);
});

test("cancel of a question that was never taken ends with it", async () => {
  const line = chat({ baseUrl: "http://127.0.0.1:9", botId: "b", message: "hi", timing: { ...FAST, asks: 1 } });
  await assert.rejects(line.done);
  await line.cancel();
});

const cancels = async (w) => (await w.seen()).seen.filter((request) => request.transport === "cancel").length;
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

test("a stop that the gateway is too busy for is told again after Retry-After", async () => {
  const w = await world({ answer: LONG, delay: 0.05, busy_cancel: 1, retry_after: "1" });
  const kept = ask(w);
  while (!kept.line.turnId) await pause(5);
  const began = performance.now();
  await kept.line.cancel();
  assert.ok(performance.now() - began >= 1_000);
  assert.equal((await kept.done).event, "cancelled");
  assert.equal(await cancels(w), 2);
});

test("a stop that is never taken rejects after five tries, also behind close()", async () => {
  const w = await world({ answer: LONG, delay: 0.05, busy_cancel: 99, retry_after: "0" });
  const kept = ask(w, { random: () => 0.01 });
  while (!kept.line.turnId) await pause(5);
  const heard = kept.line.cancel();
  kept.line.close();
  await assert.rejects(heard, { name: "GatewayError", status: 503, code: "overloaded" });
  assert.equal(await cancels(w), 5);
  await pause(200);
  assert.equal(await cancels(w), 5);
});

test("a stop that waits for Retry-After ends with its turn", async () => {
  const w = await world({ answer: LONG, delay: 0.005, busy_cancel: 99, retry_after: "60" });
  const kept = ask(w);
  while (!kept.line.turnId) await pause(5);
  const heard = kept.line.cancel();
  await exact(kept, LONG);
  await heard;
  assert.equal(await cancels(w), 1);
});

test("closed in the middle of the older way's answer, it gives no more of it", async () => {
  const w = await world({ suggestions: ["more?"] });
  const kept = ask(w, { streaming: false, onEvent: () => kept.line.close() });
  await assert.rejects(kept.done, { name: "AbortError" });
  assert.deepEqual(kept.events.map((event) => event.event), ["started"]);
});

test("the older way does not say whether an answer was recovered, for it is not told", async () => {
  const last = await ask(await world({}), { streaming: false }).done;
  assert.equal("recovered" in last, false);
});

test("a signal aborts as close does", async () => {
  const w = await world({ answer: LONG, delay: 0.02 });
  const abort = new AbortController();
  const kept = ask(w, { signal: abort.signal, onEvent: () => abort.abort() });
  await assert.rejects(kept.done, { name: "AbortError" });
  assert.equal(kept.events.length, 1);
  const late = ask(w, { signal: AbortSignal.abort() });
  await assert.rejects(late.done, { name: "AbortError" });
});

/** From now on the module hears what `target` hears, as in a page; nothing, without one. */
function hearing(target) {
  for (const name of ["addEventListener", "removeEventListener"]) {
    if (target) globalThis[name] = target[name].bind(target);
    else delete globalThis[name];
  }
}

test("closed in the tick in which it was opened, it listens to nothing and says nothing more", async () => {
  const w = await world({ answer: LONG });
  const target = new EventTarget();
  let listeners = 0;
  const page = {
    addEventListener: (...all) => { listeners++; target.addEventListener(...all); },
    removeEventListener: (...all) => { listeners--; target.removeEventListener(...all); },
  };
  const before = (await w.seen()).configs;
  hearing(page);
  globalThis.document = page;
  try {
    const kept = ask(w);
    const states = [];
    const line = connect({ baseUrl: w.base, scope: "turns/turn_1", onState: (state) => states.push(state) });
    kept.line.close();
    line.close();
    await assert.rejects(kept.done, { name: "AbortError" });
    await new Promise((resolve) => { setTimeout(resolve, 50); });
    assert.deepEqual([kept.states.map(([state]) => state), states], [["closed"], ["closed"]]);
    assert.equal(listeners, 0);
    assert.deepEqual([line.state, kept.line.state], ["closed", "closed"]);
    assert.deepEqual([(await w.seen()).configs, (await w.seen()).turns], [before, 0]);
    const seen = ask(w);
    await seen.done;
    assert.equal(listeners, 0, "nor after an answer");
  } finally {
    hearing(undefined);
    delete globalThis.document;
  }
});

for (const transport of ["sse", "websocket", "longpoll"]) {
  test(`what is closed or stopped as it says that it connects over ${transport} opens nothing`, async () => {
    const w = await world({ answer: LONG });
    const before = (await w.seen()).seen.length;
    for (const end of ["close", "cancel"]) {
      const states = [];
      const line = chat({
        baseUrl: w.base, userId: "u", botId: "b", message: "hi", timing: FAST, transports: [transport],
        onState: (state, detail) => {
          states.push(state);
          if (state === "connecting" && detail.transport) line[end]();
        },
      });
      await line.done.catch(() => {});
      await pause(100);
      assert.deepEqual(states.slice(-2), ["connecting", "closed"]);
    }
    const listener = connect({
      baseUrl: w.base, scope: "turns/turn_1", transports: [transport], timing: FAST,
      onState: (state, detail) => { if (state === "connecting" && detail.transport) listener.close(); },
    });
    await pause(100);
    const { seen, turns } = await w.seen();
    assert.deepEqual([seen.slice(before), turns, listener.state], [[], 0, "closed"]);
  });
}

test("closed as it says that it waits, it leaves no timer behind", async () => {
  const w = await world({ busy: 3, retry_after: "20" });
  const { setTimeout: real } = globalThis;
  const long = [];
  globalThis.setTimeout = (act, ms, ...rest) => {
    const timer = real(act, ms, ...rest);
    if (ms > 19_000) long.push(timer);
    return timer;
  };
  try {
    const line = chat({
      baseUrl: w.base, userId: "u", botId: "b", message: "hi", timing: FAST,
      onState: (state) => { if (state === "waiting") line.close(); },
    });
    await assert.rejects(line.done, { name: "AbortError" });
    await pause(50);
    assert.deepEqual(long, []);
  } finally {
    globalThis.setTimeout = real;
    for (const timer of long) clearTimeout(timer);
  }
});

for (const wish of ["longpoll", "websocket"]) {
  test(`${wish} wished for while the question is on its way brings the answer`, async () => {
    const w = await world({ answer: LONG, delay: 0.01 });
    const kept = ask(w, { transports: ["sse", wish] });
    while (kept.states.at(-1)?.[1].transport !== "sse") await pause(1);
    kept.line.prefer([wish]);
    await exact(kept, LONG);
    assert.equal(kept.transports.at(-1), wish);
    assert.equal((await w.seen()).turns, 1);
  });
}

test("a clock that is slow gives the old token for a while, and the answer goes on", async () => {
  const w = await world({ answer: LONG, delay: 0.01, tokens: ["new"] });
  const given = ["old", "old", "old", "old"];
  await exact(ask(w, { token: () => given.shift() ?? "new" }), LONG);
  assert.equal(given.length, 0);
});

test("a turn whose end no connection brought leaves the line at its end", async () => {
  const ids = { conversationId: "conv_1", turnId: "turn_1" };
  const fetch = async (url) => {
    if (String(url).includes("/config")) return Response.json({});
    if (String(url).endsWith("/turns/turn_1")) return Response.json({ ...ids, status: "completed", content: "all", position: "a-9" });
    return new Response(null, { status: 204 });
  };
  const events = [];
  const line = connect({ baseUrl: "http://over.example", scope: "turns/turn_1", after: "a-2", network: { fetch }, onEvent: (event) => events.push(event) });
  while (line.state !== "closed") await pause(5);
  assert.deepEqual([line.position, events.map((event) => event.content)], ["a-9", ["all"]]);
});

test("close ends the request for the configuration, too", async () => {
  let aborted;
  const line = connect({
    baseUrl: "http://gateway.example", scope: "turns/turn_1",
    network: { fetch: (url, { signal }) => new Promise((_, reject) => { signal.onabort = () => { aborted = String(url); reject(signal.reason); }; }) },
  });
  await new Promise((resolve) => { setTimeout(resolve, 10); });
  line.close();
  await new Promise((resolve) => { setTimeout(resolve, 0); });
  assert.match(aborted ?? "nothing", /config$/);
});

test("begun offline it tries once, says so, waits, and asks once it is online", async () => {
  const w = await world({ answer: LONG });
  const navigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  const page = new EventTarget(); // or a worker
  hearing(page);
  const connection = { onLine: false };
  Object.defineProperty(globalThis, "navigator", { value: connection, configurable: true });
  try {
    let tries = 0;
    const cut = async (...request) => {
      if (connection.onLine) return fetch(...request);
      tries++;
      throw new TypeError("fetch failed");
    };
    const [kept, other] = [ask(w, { network: { fetch: cut } }), ask(w, { network: { fetch: cut } })];
    for (let n = 0; n < 300 && ![kept, other].every(({ states }) => states.at(-1)?.[0] === "offline"); n++) {
      await new Promise((resolve) => { setTimeout(resolve, 10); });
    }
    assert.deepEqual([kept, other].map(({ states }) => states.at(-1)[0]), ["offline", "offline"]);
    const before = tries;
    assert.ok(before <= 2, String(before));
    await new Promise((resolve) => { setTimeout(resolve, 150); });
    assert.equal(tries, before);
    assert.deepEqual([(await w.seen()).configs, (await w.seen()).seen], [0, []]);
    await stopsAtOnce(other, async () => (await w.seen()).seen.length);
    connection.onLine = true;
    page.dispatchEvent(new Event("online"));
    const began = performance.now();
    await exact(kept, LONG);
    assert.ok(performance.now() - began < 5_000);
    assert.equal((await w.seen()).turns, 1);
  } finally {
    hearing(undefined);
    delete globalThis.navigator;
    if (navigator) Object.defineProperty(globalThis, "navigator", navigator);
  }
});

test("a gateway that answers is there, also when the browser says that it is offline", async () => {
  const w = await world({ answer: LONG, cuts: 2, cut_after: 40 });
  const navigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { onLine: false }, configurable: true });
  try {
    const kept = ask(w);
    await exact(kept, LONG);
    assert.ok(!kept.states.some(([state]) => state === "offline"));
  } finally {
    delete globalThis.navigator;
    if (navigator) Object.defineProperty(globalThis, "navigator", navigator);
  }
});

for (const [options, more] of [
  [{ transports: ["sse"] }], [{ transports: ["longpoll"] }], [{ transports: ["longpoll"] }, { Location: "/login" }], [{}], [{ streaming: false }],
]) {
  test(`a portal that answers for the gateway is unknown, not internal: ${JSON.stringify([options, more])}`, async () => {
    let answered = 0;
    const portal = async () => {
      answered++;
      return new Response("<h1>Log in</h1>", { headers: { "Content-Type": "text/html", ...more } });
    };
    const timing = { asks: 3, backoffMaxMs: 10, penaltyMs: 10 };
    const kept = ask({ base: "http://portal.example" }, { ...options, network: { fetch: portal }, timing });
    await assert.rejects(kept.done, (error) => error instanceof GatewayError && error.code === "unknown" && error.status === 200);
    assert.ok(kept.states.some(([state, { delayMs, reason }]) => state === "waiting" && delayMs >= 0 && /^unknown$|no event stream/.test(reason)));
    assert.ok(answered > 3, "a portal may be gone a moment later, so it is tried again");
  });
}

for (const options of [{ transports: ["sse"] }, { transports: ["websocket"] }, { transports: ["longpoll"] }, { streaming: false }]) {
  test(`a token() that fails is named, and not the gateway: ${JSON.stringify(options)}`, async () => {
    const w = await world({});
    const token = () => fetch("http://127.0.0.1:9/token");
    const kept = ask(w, { ...options, token, timing: { ...FAST, configMs: 5000, backoffMaxMs: 10, asks: 2 } });
    await assert.rejects(kept.done, { name: "GatewayError", code: "unreachable", message: /: token\(\) failed: fetch failed/ });
    assert.ok(kept.states.some(([state, { reason }]) => state === "waiting" && reason === "token() failed: fetch failed"));
    assert.deepEqual((await w.seen()).seen, []);
  });
}

for (const options of [{ transports: ["sse"] }, { transports: ["websocket"] }, { transports: ["longpoll"] }, { streaming: false }]) {
  test(`a token that never comes holds nobody for ever: ${JSON.stringify(options)}`, async () => {
    const w = await world({});
    const silent = { ...options, token: () => new Promise(() => {}), timing: { ...FAST, configMs: 5000, requestMs: 100, backoffMaxMs: 10, asks: 2 } };
    await assert.rejects(ask(w, silent).done, { name: "GatewayError", code: "unreachable", message: /token\(\) gave nothing within 100 ms/ });
    const patient = { ...silent, timing: { ...FAST, stopMs: 50 } };
    const stopped = ask(w, patient);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
    await stopsAtOnce(stopped, async () => (await w.seen()).seen.length);
    const closed = ask(w, patient);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
    closed.line.close();
    await assert.rejects(closed.done, { name: "AbortError" });
    assert.deepEqual((await w.seen()).seen, []);
  });
}

test("where the runtime has no WebSocket and nothing else was wanted, long-poll answers and the state says why", async () => {
  const w = await world({ answer: LONG, delay: 0.001 });
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  try {
    const kept = ask(w, { transports: ["websocket"] });
    await exact(kept, LONG);
    assert.deepEqual(kept.transports, ["longpoll"]);
    const reasons = kept.states.filter(([state, { transport }]) => state === "connecting" && transport).map(([, { reason }]) => reason);
    assert.deepEqual([...new Set(reasons)], ["no websocket here"]);
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});

test("a stream that falls silent without ending is left and taken up again", async () => {
  const w = await world({ answer: LONG, delay: 0.002, heartbeat: 0.2, stall_after: 9, break_poll: 99 });
  const kept = ask(w, { transports: ["sse"] });
  await exact(kept, LONG);
  assert.ok(kept.states.some(([state, detail]) => state === "waiting" && detail.reason === "silence"));
});

test("a proxy that begins to buffer in mid-answer is left for the next transport, which goes on", async () => {
  const w = await world({ answer: LONG, delay: 0.02, hold_after: 9 });
  const kept = ask(w, { transports: ["sse", "longpoll"], timing: { ...FAST, penaltyMs: 60_000 } });
  const began = performance.now();
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["sse", "longpoll"]);
  assert.ok(performance.now() - began < 8_000, "long before heartbeats are missed");
});

test("a quiet stream whose turn has no more to say stays, and is asked for seldom", async () => {
  const w = await world({ tools: [{ id: "c1" }], heartbeat: 0.1, delay: 0.002 });
  const kept = ask(w, { transports: ["sse"] });
  await pause(3_500);
  const { seen } = await w.seen();
  assert.deepEqual(kept.transports, ["sse"]);
  assert.equal(seen.filter(({ transport }) => transport === "post").length, 1);
  assert.ok(seen.filter(({ transport }) => transport === "longpoll").length <= 4, "asked for too often");
  kept.line.close();
});

test("streams that end as soon as they have begun are left for the next transport", async () => {
  const w = await world({ answer: LONG, delay: 0.01, only_retry: 99 });
  const kept = ask(w, { transports: ["sse", "websocket"], timing: { ...FAST, penaltyMs: 60_000 } });
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["websocket"]);
});

for (const [retry, most] of [[0, 25], [3_000_000_000, 2]]) {
  test(`an advice of ${retry} ms to come back floods nobody`, async () => {
    let asked = 0;
    const fetch = async (url) => {
      asked++;
      return String(url).includes("/config") ? Response.json({}) : new Response(`retry: ${retry}\n\n`, { headers: { "Content-Type": "text/event-stream" } });
    };
    const kept = ask({ base: `http://told-${retry}.example` }, { transports: ["sse"], network: { fetch }, timing: { asks: 1_000 } });
    await pause(1_000);
    kept.line.close();
    assert.ok(asked >= 2 && asked <= most, String(asked));
  });
}

test("closed while the question is on its way, it can be cancelled all the same", async () => {
  for (const transports of [["sse"], ["websocket"]]) {
    const w = await world({ answer: LONG, delay: 0.05, hold_post: 0.5 });
    const kept = ask(w, { transports });
    while (!(await w.seen()).turns) await pause(5);
    kept.line.close();
    await assert.rejects(kept.done, { name: "AbortError" });
    await kept.line.cancel();
    assert.equal(await cancels(w), 1);
    assert.equal((await w.seen()).turns, 1);
  }
});

test("a stop while the token is waited for asks nothing", async () => {
  for (const options of [{ transports: ["sse"] }, { transports: ["longpoll"] }, { streaming: false }]) {
    const w = await world({});
    const kept = ask(w, { ...options, token: async () => { await pause(200); return "t"; } });
    while (!(await w.seen()).configs) await pause(5);
    await pause(50);
    await kept.line.cancel();
    assert.equal((await kept.done).event, "cancelled");
    await pause(400);
    assert.deepEqual((await w.seen()).seen, []);
  }
});

test("what the gateway asked to wait for is waited for, whatever is wished meanwhile", async () => {
  const w = await world({ busy: 1, busy_code: "rate_limited", retry_after: "2" });
  const kept = ask(w);
  while (kept.line.state !== "waiting") await pause(5);
  const began = performance.now();
  for (const name of ["longpoll", "websocket", "sse"]) {
    kept.line.prefer([name]);
    await pause(50);
  }
  assert.equal((await w.seen()).seen.length, 1);
  await exact(kept, "Hello **world**, this is the *stub*.");
  assert.ok(performance.now() - began >= 1_900);
});

for (const junk of ["null", "5", "[]", "{"]) {
  test(`a socket that says ${junk} is damaged, and left when that goes on`, async () => {
    const w = await world({ answer: LONG, delay: 0.005, ws_junk: junk });
    const kept = ask(w, { transports: ["websocket", "longpoll"], timing: { ...FAST, penaltyMs: 60_000 } });
    await exact(kept, LONG);
    assert.deepEqual(kept.transports.slice(-1), ["longpoll"]);
  });
}

test("a socket whose error nobody listens to would end a Node process: each try has a listener", async () => {
  let made = 0;
  class Picky {
    constructor() {
      made++;
      setTimeout(() => {
        if (!this.onerror) throw new Error("an error that nobody listened to");
        this.onerror({});
        this.onclose?.({ code: 1006 });
      }, 5);
    }

    close() {}
  }
  const w = await world({ answer: LONG, delay: 0.01 });
  const kept = ask(w, { transports: ["websocket", "sse"], network: { WebSocket: Picky } });
  await exact(kept, LONG);
  assert.ok(made >= 2, "the better transport was not tried again");
  assert.equal(kept.transports.at(-1), "sse");
});

test("where only WebSocket is wanted and refused, the answer arrives all the same", async () => {
  const w = await world({ answer: LONG, delay: 0.01, refuse_ws: true });
  const kept = ask(w, { transports: ["websocket"] });
  await exact(kept, LONG);
  assert.equal((await w.seen()).turns, 1);
});

test("a stream that ends because the token's time is up goes on with a fresh one at once", async () => {
  const ids = { conversationId: "conv_1", turnId: "turn_1" };
  const stream = (text) => new Response(text, { headers: { "Content-Type": "text/event-stream" } });
  const data = (id, event) => `id: ${id}\ndata: ${JSON.stringify({ ...event, id })}\n\n`;
  const tokens = [];
  const fetch = async (url, { headers }) => {
    if (String(url).includes("/config")) return Response.json({});
    tokens.push(headers.Authorization);
    if (tokens.length === 1) return stream(`${data("a-1", { event: "started", ...ids })}: unauthorized\n\n`);
    return stream(data("a-2", { event: "completed", ...ids, content: "" }));
  };
  let made = 0;
  const kept = ask({ base: "http://expires.example" }, { transports: ["sse"], network: { fetch }, token: () => `t${++made}` });
  assert.equal((await kept.done).event, "completed");
  assert.equal(new Set(tokens).size, 2);
  assert.ok(kept.states.every(([state]) => state !== "waiting"));
});

test("a clock that is put back bans no transport for the hour", async () => {
  const w = await world({ answer: LONG, delay: 0.02, refuse_sse: 502 });
  const { now } = Date;
  const kept = ask(w, { timing: { ...FAST, penaltyMs: 1_000 } });
  while (kept.line.transport !== "websocket") await pause(5);
  await w.tell({ refuse_sse: 0 });
  Date.now = () => now() - 3_600_000;
  try {
    await exact(kept, LONG);
  } finally {
    Date.now = now;
  }
  assert.deepEqual(kept.transports, ["websocket", "sse"]);
});

test("a proxy's 503 is of one transport, and not the gateway's wish to be left alone", async () => {
  const w = await world({ answer: LONG, delay: 0.005, refuse_sse: 503 });
  const kept = ask(w, { timing: { ...FAST, penaltyMs: 60_000 } });
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["websocket"]);
});

test("a lone transport behind a buffering proxy is given more and more time", async () => {
  const w = await world({ answer: LONG, delay: 0.02, buffer_sse: true });
  const kept = ask(w, { transports: ["sse"] });
  await exact(kept, LONG);
  assert.equal((await w.seen()).turns, 1);
});

for (const transport of ["sse", "websocket", "longpoll"]) {
  test(`a token that has run out is renewed over ${transport}, once`, async () => {
    const w = await world({ tokens: ["new"] });
    const given = ["old", "old", "new"]; // one for the configuration, too
    await exact(ask(w, { transports: [transport], token: async () => given.shift() ?? "new" }), "Hello **world**, this is the *stub*.");
    const kept = ask(w, { transports: [transport], token: () => "old" });
    await assert.rejects(kept.done, { code: "unauthorized", status: 401 });
  });
}

test("it moves to another transport when asked to, in the middle of an answer", async () => {
  const w = await world({ answer: LONG, delay: 0.015 });
  const order = ["websocket", "longpoll", "sse"];
  const kept = ask(w, { onEvent: (event) => { if (kept.events.length % 25 === 24 && event) kept.line.prefer([order.shift() ?? "sse", "sse"]); } });
  await exact(kept, LONG);
  assert.deepEqual(kept.transports.slice(0, 4), ["sse", "websocket", "longpoll", "sse"]);
});

test("a conversation's listener loses nothing that happens before its first event", async () => {
  const w = await world({ answer: "one" });
  const first = ask(w);
  await first.done;
  const events = [];
  const line = connect({
    baseUrl: w.base, scope: `conversations/${first.line.conversationId}`, timing: FAST, onEvent: (event) => events.push(event),
  });
  while (line.state !== "open") await new Promise((resolve) => { setTimeout(resolve, 10); });
  assert.equal(line.position, first.events.at(-1).id, "it knows where now is");
  await w.tell({ answer: "two" });
  await ask(w, { conversationId: first.line.conversationId }).done;
  while (events.at(-1)?.event !== "completed") await new Promise((resolve) => { setTimeout(resolve, 10); });
  assert.equal(events[0].event, "started");
  assert.equal(events.at(-1).content, "two");
  line.close();
  assert.equal(line.state, "closed");
});

for (const broken of [1, 2, 99]) {
  test(`a listener that could not learn where now is, ${broken} times, ${broken > 3 ? "listens all the same" : "loses nothing"}`, async () => {
    const w = await world({ answer: "one" });
    const first = ask(w, { transports: ["sse"] });
    await first.done;
    const conversationId = first.line.conversationId;
    await w.tell({ break_poll: broken, answer: "two", delay: 0 });
    const events = [];
    let away = false;
    let cut = () => {};
    const network = { fetch: async (url, init) => {
      const abort = new AbortController();
      init.signal?.addEventListener("abort", () => abort.abort(), { once: true });
      cut = () => abort.abort();
      if (away) throw new TypeError("away");
      return fetch(url, { ...init, signal: abort.signal });
    } };
    const line = connect({
      baseUrl: w.base, scope: `conversations/${conversationId}`, timing: FAST, transports: ["sse"], network, onEvent: (event) => events.push(event),
    });
    while (line.state !== "open") await pause(5);
    if (broken > 3) assert.equal(line.position, undefined);
    else {
      assert.equal(line.position, first.events.at(-1).id);
      away = true;
      cut();
      while (line.state === "open") await pause(5);
    }
    await ask(w, { conversationId, transports: ["sse"] }).done;
    away = false;
    const ended = () => events.at(-1)?.event === "completed";
    for (let left = 300; left && !ended(); left--) await pause(10);
    line.close();
    assert.deepEqual([events[0]?.event, events.at(-1)?.event, events.at(-1)?.content], ["started", "completed", "two"]);
  });
}

test("an id that an address may not hold is escaped, and an empty storage gives no position", async () => {
  const asked = [];
  const network = { fetch: async (url) => { asked.push(String(url)); return new Response("{}", { status: 404 }); } };
  for (const [scope, after] of [["shops/a?b#c/d", null], ["shops/a?b#c/d", ""]]) {
    asked.length = 0;
    const line = connect({ baseUrl: `${STUB}/nowhere`, scope, after, transports: ["sse"], network, timing: FAST });
    while (asked.length < 3) await pause(5);
    line.close();
    const paths = asked.slice(1).map((url) => url.slice(`${STUB}/nowhere`.length));
    assert.match(paths[0], /^\/api\/coze\/shops\/a%3Fb%23c%2Fd\/poll\?wait=0$/);
    assert.ok(paths.every((path) => path.startsWith("/api/coze/shops/a%3Fb%23c%2Fd/") && !path.includes("after")), paths.join());
  }
});

test("a page holds two streams, and any more lines go by WebSocket, back and forth as seats are free", async () => {
  const w = await world({ answer: LONG, delay: 0.01 });
  const listen = (shop, more) => connect({ baseUrl: w.base, scope: `shops/${shop}`, timing: FAST, ...more });
  const lines = [];
  for (let i = 0; i < 6; i++) {
    lines.push(listen(`s${i}`));
    while (lines[i].state !== "open") await pause(5);
  }
  assert.deepEqual(lines.map((line) => line.transport), ["sse", "sse", "websocket", "websocket", "websocket", "websocket"]);
  const kept = ask(w);
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["websocket"]);
  const wanted = listen("s9", { transports: ["sse"] });
  while (wanted.state !== "open") await pause(5);
  assert.equal(wanted.transport, "sse", "who wants nothing else gets it");
  for (const line of [...lines, wanted]) line.close();
  await pause(50);
  const again = ask(w);
  await exact(again, LONG);
  assert.deepEqual(again.transports, ["sse"]);
});

test("a listener to what does not exist is told so, on every transport", async () => {
  const w = await world({});
  for (const transport of ["sse", "websocket", "longpoll"]) {
    const error = await new Promise((resolve) => {
      connect({
        baseUrl: w.base, scope: "turns/turn_none", transports: [transport], timing: FAST,
        onState: (state, detail) => state === "closed" && resolve(detail.error),
      });
    });
    assert.equal(error.code, "not_found", transport);
  }
});

test("mistakes of the caller are named", () => {
  assert.throws(() => connect({ baseUrl: STUB, scope: "rooms/1" }), /rooms\/1/);
  assert.throws(() => chat({ baseUrl: STUB, message: "x", transports: ["pigeon"] }), /pigeon/);
  assert.throws(() => chat({ message: "x" }), /baseUrl/);
  assert.throws(() => chat(), /baseUrl/);
  for (const baseUrl of ["localhost:8080", "127.0.0.1:8080", "/gateway", "ftp://gateway.example", "https://u:p@gateway.example"]) {
    assert.throws(() => chat({ baseUrl, message: "x" }), { name: "TypeError", message: /^baseUrl must be an address/ }, baseUrl);
  }
  const mistakes = {
    idempotencyKey: "\u952e", language: "\u4e2d", transports: "sse", timing: { firstByteMs: "soon" }, metaData: { a: 1n },
  };
  for (const [name, value] of Object.entries(mistakes)) {
    assert.throws(() => chat({ baseUrl: STUB, message: "x", [name]: value }), { name: "TypeError" }, name);
  }
});

test("a timing that is undefined is the default, and an address may be given as a URL with a slash at its end", async () => {
  const w = await world({ answer: LONG, delay: 0.001 });
  const kept = ask(w, { baseUrl: new URL(`${w.base}/`), timing: { firstByteMs: undefined } });
  await exact(kept, LONG);
  assert.deepEqual(kept.transports, ["sse"]);
});

for (const token of ["wr\u00f8ng\u2192", () => "wr\u00f8ng\u2192"]) {
  test(`a token that no header can carry is unauthorized: given as a ${typeof token}`, async () => {
    const w = await world({});
    for (const transport of ["sse", "websocket", "longpoll"]) {
      await assert.rejects(ask(w, { token, transports: [transport] }).done, { code: "unauthorized", message: /characters/ });
    }
    assert.deepEqual((await w.seen()).seen, []);
  });
}

test("the parser gives the same events wherever the text is cut", () => {
  const text = "\uFEFF: hello\r\nretry: 12\rid: a\ndata: one\r\ndata:two\n\r\nevent: x\ndata\n\nid\ndata: {\u2028}\r\rretry: x\nid: b\0\ndata: last\n\n:\ndata: cut";
  const read = (pieces) => {
    const seen = [];
    const parser = new EventStreamParser({
      onEvent: (...event) => seen.push(event), onRetry: (ms) => seen.push(["retry", ms]), onComment: (comment) => seen.push(["comment", comment]),
    });
    for (const piece of pieces) parser.push(piece);
    return seen;
  };
  const whole = read([text]);
  assert.deepEqual(whole, [
    ["comment", "hello"], ["retry", 12], ["one\ntwo", "a", "message"], ["", "a", "x"], ["{\u2028}", "", "message"], ["last", "", "message"], ["comment", ""],
  ]);
  assert.deepEqual(read([...text]), whole);
  for (let cut = 1; cut < text.length; cut++) assert.deepEqual(read([text.slice(0, cut), text.slice(cut)]), whole, `cut at ${cut}`);
});

test("a long line in small pieces costs time in proportion to its length", () => {
  const time = (size) => {
    const began = performance.now();
    let got = 0;
    const parser = new EventStreamParser({ onEvent: (data) => { got = data.length; } });
    parser.push("data: ");
    for (let i = 0; i < size; i += 100) parser.push("x".repeat(100));
    parser.push("\n\n");
    assert.equal(got, size);
    return performance.now() - began;
  };
  time(100_000);
  assert.ok(time(4_000_000) < 2_000);
});

test("a file is sent where there is only fetch, and its beginning and end are told", async () => {
  const w = await world();
  const told = [];
  const file = new File([new Uint8Array(100_000)], "图.png", { type: "image/png" });
  const answer = await upload(file, { baseUrl: w.base, userId: "u", shopId: "s", onProgress: (progress) => told.push(progress) });
  assert.deepEqual(answer, { fileId: "107000", fileName: "图.png", bytes: 100_000, createdAt: 1 });
  assert.deepEqual(told, [{ sent: 0, total: 100_000 }, { sent: 100_000, total: 100_000 }]);
  const [{ query, name, field }] = (await w.seen()).seen;
  assert.deepEqual({ query, name, field }, { query: { userId: "u", shopId: "s" }, name: "图.png", field: "file" });
});

test("a file without a name gets one, and any other value is a TypeError", async () => {
  const w = await world();
  assert.equal((await upload(new Blob(["x"]), { baseUrl: w.base, fileName: "a.txt" })).fileName, "a.txt");
  assert.equal((await upload(new Blob(["x"]), { baseUrl: w.base })).fileName, "file");
  assert.throws(() => upload("a path", { baseUrl: w.base }), TypeError);
});

test("an upload that is refused, unheard or given up rejects, and is not repeated", async () => {
  const w = await world({ busy: 1 });
  const file = new Blob(["x"]);
  await assert.rejects(upload(file, { baseUrl: w.base }), { code: "overloaded", status: 503, retryAfterMs: 1_000 });
  assert.equal((await w.seen()).seen.length, 0);
  await assert.rejects(upload(file, { baseUrl: "http://127.0.0.1:9" }), { name: "GatewayError", code: "unreachable", status: 0 });
  await assert.rejects(upload(file, { baseUrl: w.base, signal: AbortSignal.abort() }), { name: "AbortError" });
  await w.tell({ delay: 5 });
  const ending = new AbortController();
  const given = upload(file, { baseUrl: w.base, signal: ending.signal });
  setTimeout(() => ending.abort(), 50);
  await assert.rejects(given, { name: "AbortError" });
  await w.tell({ tokens: ["good"], delay: 0 });
  await assert.rejects(upload(file, { baseUrl: w.base, token: "bad" }), { code: "unauthorized" });
  assert.equal((await upload(file, { baseUrl: w.base, token: () => "good" })).bytes, 1);
});

test("a user's conversations are listed, renamed and deleted, and answers get feedback", async () => {
  const w = await world({ answer: "Hello.", delay: 0 });
  const turns = [];
  for (const message of ["one", "two"]) {
    const kept = ask(w, { message });
    turns.push(await kept.done);
  }
  const mine = conversations({ baseUrl: w.base, userId: "u" });
  const { conversations: found, next } = await mine.list({ limit: 5 });
  assert.deepEqual([found.map(({ title }) => title), next], [["two", "one"], null]);
  const [{ conversationId, turnId }] = turns;
  assert.deepEqual(await mine.rename(conversationId, "Another/title?"), { conversationId, title: "Another/title?" });
  assert.equal((await mine.list()).conversations[1].title, "Another/title?");
  assert.equal((await mine.feedback(turnId, "unlike", "too long")).feedback, "unlike");
  assert.equal(await mine.remove(conversationId), undefined);
  assert.deepEqual((await mine.list()).conversations.map(({ title }) => title), ["two"]);
  await assert.rejects(mine.remove(conversationId), { name: "GatewayError", status: 404, code: "not_found" });
});

test("a request about conversations that fails rejects once and says why", async () => {
  const w = await world({ tokens: ["right"], busy_feedback: 1 });
  await assert.rejects(conversations({ baseUrl: w.base, userId: "u" }).list(), { name: "GatewayError", code: "unauthorized" });
  const mine = conversations({ baseUrl: w.base, token: async () => "right" });
  assert.deepEqual((await mine.list()).conversations, []);
  await assert.rejects(mine.feedback("turn_x", "like"), { status: 503, code: "storage_unavailable" });
  const away = conversations({ baseUrl: "http://127.0.0.1:9", userId: "u" });
  await assert.rejects(away.list(), { name: "GatewayError", status: 0, code: "unreachable" });
  const abort = new AbortController();
  const slow = conversations({
    baseUrl: w.base, signal: abort.signal, network: { fetch: (_, { signal }) => new Promise((_, no) => signal.addEventListener("abort", () => no(signal.reason))) },
  });
  const asked = slow.list();
  abort.abort();
  await assert.rejects(asked, { name: "AbortError" });
  const portal = conversations({ baseUrl: w.base, network: { fetch: async () => new Response("<h1>Sign in</h1>") } });
  await assert.rejects(portal.list(), { name: "GatewayError", code: "unknown" });
  assert.throws(() => conversations({ baseUrl: "ftp://x" }), TypeError);
});
