/** The page's composition: finds the page's elements, builds the parts, and connects buttons and fields to them. */
import { request, sentence } from "./api.js";
import { Attaching } from "./attaching.js";
import { BadNetwork } from "./bad-network.js";
import { FAULTS, QUICK } from "./choices.js";
import { Conversation } from "./conversation.js";
import { make, refocus, say, sayAnew } from "./dom.js";
import { addDeletion } from "./deletion.js";
import { Dock } from "./dock.js";
import { Figures, NetworkLog } from "./figures.js";
import { firstLanguage, formatNumber, language, onLanguage, speak, t } from "./language.js";
import { tabMemory } from "./memory.js";
import { fitToText, replaceText, sendOnEnter } from "./message-field.js";
import { addThemeButton, keepField } from "./preferences.js";
import { Scrolling } from "./scrolling.js";
import { shownLength } from "./shown-length.js";
import { Talks } from "./talks.js";

const LIKING = ["sse", "websocket", "longpoll", "eventsource"];
const SAID = {
  started: "says_started", action_required: "says_waits", completed: "says_completed", error: "says_failed", cancelled: "says_cancelled",
};
const DOUBLE_CLICK_MS = 500;
const PRESSING_HELPS_MS = 1_500; // a shorter pause is over before anybody can press the button
const HOME = new URL(".", location.href).href; // a proxy may serve the gateway below a path
const at = (id) => document.getElementById(id);

const dock = new Dock({ name: "docked", main: at("main"), side: at("side"), opener: at("panel-button"), closer: at("panel-close") });
const network = new BadNetwork();
const parts = network.parts();
const figures = new Figures(at("figures"));
const netlog = new NetworkLog(at("network-log"));
const scrolling = new Scrolling(at("scroll"), at("log"), at("jump"));
const message = at("message");
let limit = 16_000;

const transports = () => {
  const choice = at("transport").value;
  return LIKING.includes(choice) ? [choice, ...LIKING.filter((name) => name !== choice)] : ["sse", "websocket", "longpoll"];
};

const attaching = new Attaching({ opener: at("attach"), input: at("attach-file"), list: at("attachments") }, {
  settings: () => conversation.page.settings(),
  onTrouble: warn,
  onChosen: unwarn,
  onReady: () => {
    if (at("hint").querySelector("[data-t=attach_wait]")) at("hint").hidden = true;
  },
});

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
    attachments: attaching.attachments,
    files: attaching.names,
  }),
  onAsked: () => attaching.clear(),
  isTyping: () => message.value !== "",
  onState: showState,
  edit: fill,
  onTrouble: warn,
  onTokenWanted: askForToken,
  onChange: showProgress,
  onTurn: () => {
    scrolling.follow(true);
    at("welcome").hidden = at("log").childElementCount > 0;
  },
  keepPlace: (change) => scrolling.keepPlace(change),
});

const talks = new Talks(at, conversation.page.settings);

/** Says what went wrong, in a place that people see on any screen, until they do something about it. */
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

/** Says something that is good to know, although nothing went wrong. */
function hint(key) {
  at("hint").hidden = false;
  at("hint").replaceChildren(say("span", key));
}

/** Opens the field for the token. */
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
  if (state === "connecting" && reason === "whole answer") lineState = "whole"; // nothing arrives before the whole answer
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
  // An answer that waits has such a button already.
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
  talks.mark(conversation.id);
  at("earlier").hidden = !conversation.hasEarlier;
  const said = SAID[event?.event];
  // A screen reader is told when an answer begins, waits and ends. Read out piece by piece, the answer would be noise.
  if (said) at("announcer").textContent = `${t(said, { n: shownLength(event.content ?? "") })} ${event.error ?? ""}`.trim();
  showStatus();
}

// -- asking

/** While an answer runs there is Stop, and Send only if the next question has been written. */
function placeSend() {
  at("send").hidden = conversation.running && !message.value.trim();
}

/** Puts `text` into the field. */
function fill(text) {
  replaceText(message, text);
  placeSend();
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if ([...message.value].length > limit) return warn(say("span", "error_long", { "data-n": limit }));
  unwarn();
  if (attaching.busy) return hint("attach_wait");
  if (conversation.ask(message.value)) {
    message.value = "";
    placeSend();
    fitToText(message);
  } else if (message.value.trim()) hint("error_running");
  return message.focus();
});
message.addEventListener("input", () => {
  unwarn();
  fitToText(message);
  placeSend();
});
sendOnEnter(message, at("composer"));
let sentAt = -Infinity; // when Send was last clicked: Stop then appears under the pointer, and a double click must not press it
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
  event.preventDefault(); // following the link would replace the conversation's id in the address
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
  talks.load();
  unwarn();
  hint("deleted");
  message.focus();
});
at("try-now").addEventListener("click", () => conversation.connection.tryNow());
const chips = QUICK.map(([tongue, question]) => (
  make("button", { type: "button", class: "chip", lang: tongue, onclick: () => conversation.ask(question) }, question)));

// When a key presses a button that then disappears or is disabled, nothing has the focus any more.
addEventListener("click", ({ detail }) => { if (!detail) setTimeout(refocus, 50); });

at("earlier").addEventListener("click", async () => {
  at("earlier").disabled = true;
  await conversation.showEarlier();
  at("earlier").disabled = false;
  (at("earlier").hidden ? at("scroll") : at("earlier")).focus({ preventScroll: true });
});

// -- the bad network

network.onCut = () => netlog.add("bad", say("span", "log_cut"));
at("cut").addEventListener("click", () => network.cut());
at("elsewhere").addEventListener("click", () => {
  const next = conversation.connection.goOnElsewhere(LIKING.slice(0, 3));
  if (next) netlog.add("", say("span", "elsewhere"), "·", next);
});
at("transport").addEventListener("change", () => conversation.connection.prefer(transports()));
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
// The real Coze would read a fault as a part of the question.
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
  at("announcer").textContent = ""; // its last sentence has been read out; in another language it would be read again
  showSlow();
  figures.show();
});
addThemeButton(at("theme"));
for (const id of ["userId", "botId", "shopId"]) keepField(at(id));
keepField(at("token"), tabMemory); // a token is forgotten when its tab is closed
at("token").addEventListener("change", () => {
  unwarn();
  conversation.signedIn();
  askWhatIsOn();
});

function askWhatIsOn() {
  const settings = { baseUrl: HOME, token: at("token").value.trim() || undefined, network: globalThis };
  request(settings, "config").then((config) => {
    limit = config.maxMessageChars ?? limit;
    attaching.limit = config.maxUploadBytes ?? attaching.limit;
    at("simulated").hidden = !config.simulated;
    if (!config.needsToken) talks.load();
    if (!config.needsToken) return sayAnew(at("token-label"), "token");
    askForToken();
    return hint("token_needed");
  }, () => {});
}

speak(firstLanguage());
askWhatIsOn();
conversation.resume();
if (matchMedia("(min-height: 281px)").matches) message.focus({ preventScroll: true }); // on a lower screen the field may be out of sight
document.documentElement.dataset.ready = "true";
