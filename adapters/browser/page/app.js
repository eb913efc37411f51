/** The page's composition: finds its elements, builds the parts, and ties what people do to what the parts can. */
import { request, sentence } from "./api.js";
import { BadNetwork } from "./bad-network.js";
import { Conversation } from "./conversation.js";
import { make, refocus, say, sayAnew } from "./dom.js";
import { addDeletion } from "./deletion.js";
import { Dock } from "./dock.js";
import { Figures, NetworkLog } from "./figures.js";
import { firstLanguage, formatNumber, language, onLanguage, speak, t } from "./language.js";
import { tabMemory } from "./memory.js";
import { addThemeButton, keepField } from "./preferences.js";
import { shownLength } from "./shown-length.js";

const LIKING = ["sse", "websocket", "longpoll", "eventsource"];
const QUICK = [
  ["zh", "你好，请介绍一下你自己"], ["zh", "用表格比较 SSE 和 WebSocket"],
  ["en", "What can you do?"], ["en", "Show me a streaming client in Python"],
  ["es", "¿Qué puedes hacer?"], ["es", "Explica qué es el streaming con un ejemplo"],
];
const FAULTS = [
  ["", "fault_none"], ["drop-after:8", "fault_drop"], ["stall-after:8", "fault_stall"], ["status:503 times:2", "fault_busy"],
  ["failed", "fault_failed"], ["rewrite", "fault_rewrite"], ["rate:5", "fault_slow"], ["rate:400", "fault_fast"],
  ["reasoning", "fault_reasoning"], ["tool", "fault_tool"], ["action", "fault_action"], ["multi", "fault_multi"],
  ["audio", "fault_audio"], ["hostile", "fault_hostile"],
];
const SAID = {
  started: "says_started", action_required: "says_waits", completed: "says_completed", error: "says_failed", cancelled: "says_cancelled",
};
const DOUBLE_CLICK_MS = 500;
const PRESSING_HELPS_MS = 1_500; // a shorter wait is over before a hand is there
const HOME = new URL(".", location.href).href; // a proxy may serve the gateway below a path
const at = (id) => document.getElementById(id);

const dock = new Dock({ main: at("main"), side: at("side"), opener: at("panel-button"), closer: at("panel-close") });
const network = new BadNetwork();
const parts = network.parts();
const figures = new Figures(at("figures"));
const netlog = new NetworkLog(at("network-log"));
const scroll = at("scroll");
const message = at("message");
let following = true; // the newest line stays in view until the reader scrolls up
let limit = 16_000;

const transports = () => {
  const choice = at("transport").value;
  return LIKING.includes(choice) ? [choice, ...LIKING.filter((name) => name !== choice)] : ["sse", "websocket", "longpoll"];
};

const conversation = new Conversation({
  log: at("log"),
  figures,
  settings: () => ({
    baseUrl: HOME,
    userId: at("userId").value.trim() || undefined,
    botId: at("botId").value.trim(),
    shopId: at("shopId").value.trim() || undefined,
    token: at("token").value.trim() || undefined,
    transports: transports(),
    streaming: at("transport").value !== "whole",
    fault: at("fault").value,
    network: parts,
  }),
  isTyping: () => message.value !== "",
  onState: showState,
  edit: fill,
  onTrouble: warn,
  onTokenWanted: askForToken,
  onChange: showProgress,
  onTurn: () => {
    follow(true);
    at("welcome").hidden = at("log").childElementCount > 0;
  },
  keepPlace: (change) => {
    follow(false);
    const below = scroll.scrollHeight - scroll.scrollTop;
    change();
    scroll.scrollTop = scroll.scrollHeight - below;
  },
});

/** Says what went wrong where people look on any screen, until they do something about it. */
function warn(words) {
  at("alert").hidden = false;
  at("alert").replaceChildren(words);
  netlog.add("bad", words.cloneNode(true));
}

function unwarn() {
  for (const place of [at("alert"), at("hint")]) {
    place.hidden = true;
    place.replaceChildren();
  }
}

/** Says what is no mistake, only worth knowing. */
function hint(key) {
  at("hint").hidden = false;
  at("hint").replaceChildren(say("span", key));
}

/** Opens the field that the token belongs into. */
function askForToken() {
  sayAnew(at("token-label"), "token_required");
  at("settings").open = true;
  dock.open();
  if (!message.value) at("token").focus();
}

// -- what the connection does

let lineState = "idle";

function showState(state, { transport, delayMs, reason, error }) {
  lineState = state === "waiting" && reason === "hidden" ? "hidden" : state;
  if (state === "connecting" && reason === "whole answer") lineState = "whole"; // it says no word before the last
  if (state === "open") {
    figures.opened(transport ?? "whole");
    netlog.add("good", say("span", "state_open"), "·", transport ?? say("span", "transport_whole"));
  }
  if (state === "waiting" && reason !== "hidden") {
    figures.lost();
    netlog.add("bad", say("span", "state_waiting"), "·", say("span", "milliseconds", { "data-n": delayMs }), "·", say("span", reason));
  }
  if (state === "offline") netlog.add("bad", say("span", "state_offline"));
  if (error) netlog.add("bad", say("span", "state_closed"), "·", sentence(error));
  at("status-more").textContent = state === "open" ? (transport ?? "") : "";
  // In an answer that waits there is such a button already.
  at("try-now").hidden = lineState !== "waiting" || !(delayMs > PRESSING_HELPS_MS) || conversation.running;
  return showStatus();
}

function showStatus() {
  const shown = conversation.running && lineState === "open" ? "streaming" : lineState;
  at("status").dataset.state = shown;
  for (const element of [at("status").querySelector("span"), at("state-figure")]) {
    sayAnew(element, `state_${shown}`);
  }
}

function showProgress(event) {
  const { running } = conversation;
  at("welcome").hidden = at("log").childElementCount > 0;
  at("stop").hidden = !running;
  at("stop").disabled = conversation.stopping;
  sayAnew(at("stop").querySelector("span"), conversation.stopping ? "stopping" : "stop");
  placeSend();
  for (const asks of document.querySelectorAll(".chip, .retry")) asks.disabled = running;
  at("delete").hidden = !conversation.id;
  at("earlier").hidden = !conversation.hasEarlier;
  const said = SAID[event?.event];
  // A screen reader hears when an answer begins, waits and ends; read piece by piece it would be noise.
  if (said) at("announcer").textContent = `${t(said, { n: shownLength(event.content ?? "") })} ${event.error ?? ""}`.trim();
  showStatus();
}

// -- asking

/** While an answer runs there is Stop; and Send, too, for who has written what is to be asked next. */
function placeSend() {
  at("send").hidden = conversation.running && !message.value.trim();
}

/** Puts `text` into the field. What was there is a step back in its history. */
function fill(text) {
  message.focus();
  message.select();
  if (!document.execCommand("insertText", false, text)) message.value = text;
  fit();
  placeSend();
}

function fit() {
  if (CSS.supports("field-sizing", "content")) return; // the browser does it
  message.rows = 1; // what is measured then is the text, not the field
  const { lineHeight, paddingTop, paddingBottom } = getComputedStyle(message);
  const height = message.scrollHeight - parseFloat(paddingTop) - parseFloat(paddingBottom);
  message.rows = Math.min(Math.max(Math.round(height / parseFloat(lineHeight)), 1), 8);
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if ([...message.value].length > limit) return warn(say("span", "error_long", { "data-n": limit }));
  unwarn();
  if (conversation.ask(message.value)) {
    message.value = "";
    placeSend();
    fit();
  } else if (message.value.trim()) hint("error_running");
  return message.focus();
});
message.addEventListener("input", () => {
  unwarn();
  fit();
  placeSend();
});
message.addEventListener("keydown", (event) => {
  // Safari ends a composition before the Enter that ended it: of an input method such a key has the code 229.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
    event.preventDefault();
    at("composer").requestSubmit();
  }
});
let sentAt = -Infinity; // when Send was last clicked: Stop takes its place below the pointer, where a double click goes on
at("send").addEventListener("click", ({ detail }) => { if (detail) sentAt = performance.now(); });
at("stop").addEventListener("click", ({ detail }) => {
  if (detail > 1 || (detail && performance.now() - sentAt < DOUBLE_CLICK_MS)) return;
  conversation.stop();
  message.focus();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || at("deletion").open) return;
  if (conversation.running) conversation.stop();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would take the place of the conversation's
  message.focus();
});
at("new").addEventListener("click", () => {
  unwarn();
  conversation.begin();
  message.focus();
});
addDeletion({
  opener: at("delete"), dialog: at("deletion"), yes: at("deletion-yes"), no: at("deletion-no"), trouble: at("deletion-trouble"),
}, async () => {
  await conversation.remove();
  unwarn();
  hint("deleted");
  message.focus();
});
at("try-now").addEventListener("click", () => conversation.tryNow());
const chips = QUICK.map(([tongue, question]) => (
  make("button", { type: "button", class: "chip", lang: tongue, onclick: () => conversation.ask(question) }, question)));

// A key that was pressed on a button which then goes, or may not be pressed again, leaves the focus nowhere.
addEventListener("click", ({ detail }) => { if (!detail) setTimeout(refocus, 50); });

at("earlier").addEventListener("click", async () => {
  at("earlier").disabled = true;
  await conversation.showEarlier();
  at("earlier").disabled = false;
  (at("earlier").hidden ? scroll : at("earlier")).focus({ preventScroll: true });
});

function follow(whether) {
  following = whether;
  at("jump").hidden = following || atEnd();
}
at("jump").addEventListener("click", () => {
  follow(true);
  scroll.scrollTop = placed = scroll.scrollHeight;
});

// Told of growth after the layout, so that asking for the height costs no layout of its own.
let placed = 0; // where the page itself has scrolled to
const growth = new ResizeObserver(() => {
  if (!following) return void (at("jump").hidden = atEnd());
  scroll.scrollTop = scroll.scrollHeight;
  placed = scroll.scrollTop;
});
growth.observe(at("log"));
growth.observe(scroll);
const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
scroll.addEventListener("wheel", () => follow(atEnd()), { passive: true });
scroll.addEventListener("touchmove", () => follow(atEnd()), { passive: true });
scroll.addEventListener("keydown", () => requestAnimationFrame(() => follow(atEnd())));
// Only upwards is away from the end: what grew since the page scrolled, and the browser's own anchoring, are no reader.
scroll.addEventListener("scrollend", () => follow(atEnd() || (following && scroll.scrollTop >= placed)));

// -- the bad network

network.onCut = () => netlog.add("bad", say("span", "log_cut"));
at("cut").addEventListener("click", () => network.cut());
at("elsewhere").addEventListener("click", () => {
  const next = conversation.goOnElsewhere(LIKING.slice(0, 3));
  if (next) netlog.add("", say("span", "elsewhere"), "·", next);
});
at("transport").addEventListener("change", () => conversation.prefer(transports()));
at("slow").addEventListener("input", showSlow);
function showSlow() {
  network.slowMs = Number(at("slow").value);
  at("slow-shown").textContent = t("slow_ms", { ms: formatNumber(network.slowMs) });
}
at("cut-often").addEventListener("change", ({ target }) => network.cutEvery(target.checked ? 2_000 : 0));
at("buffer").addEventListener("change", ({ target }) => {
  network.buffers = target.checked;
  network.cut();
});
at("refuse").addEventListener("change", ({ target }) => {
  network.refusesWebSocket = target.checked;
  network.cut();
});
for (const [value, key] of FAULTS) at("fault").append(say("option", key, { value }));
// To Coze itself they would be a part of the question.
at("fault").parentElement.hidden = document.querySelector('meta[name="gateway-upstream"]').content === "coze";

// -- language, colours, fields

for (const button of document.querySelectorAll("button[data-language]")) {
  button.addEventListener("click", () => speak(button.dataset.language));
}
onLanguage(() => {
  for (const button of document.querySelectorAll("button[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language()));
  }
  at("quick").append(...chips.filter(({ lang }) => lang === language()), ...chips.filter(({ lang }) => lang !== language()));
  at("announcer").textContent = ""; // what it said last is said
  showSlow();
  figures.show();
});
addThemeButton(at("theme"));
for (const id of ["userId", "botId", "shopId"]) keepField(at(id));
keepField(at("token"), tabMemory); // a token goes with its tab
at("token").addEventListener("change", () => {
  unwarn();
  conversation.signedIn();
  askWhatIsOn();
});

function askWhatIsOn() {
  const settings = { baseUrl: HOME, token: at("token").value.trim() || undefined, network: globalThis };
  request(settings, "config").then((config) => {
    limit = config.maxMessageChars ?? limit;
    at("simulated").hidden = !config.simulated;
    if (!config.needsToken) return sayAnew(at("token-label"), "token");
    askForToken();
    return hint("token_needed");
  }, () => {});
}

speak(firstLanguage());
askWhatIsOn();
conversation.resume();
if (matchMedia("(min-height: 281px)").matches) message.focus({ preventScroll: true }); // below that it may be out of sight
document.documentElement.dataset.ready = "true";
