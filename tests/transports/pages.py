"""A small page for a real browser, which notes what the browser's own EventSource and WebSocket get."""

FOLLOW = """
async ({kind, path, token}) => {
  const heard = {ids: [], names: [], text: "", opens: 0, errors: 0, last: null, closed: null, gaps: []};
  let before = performance.now();
  const take = (event) => {
    heard.gaps.push(Math.round(performance.now() - before));
    before = performance.now();
    heard.names.push(event.event);
    if (event.id) heard.ids.push(event.id);
    if (event.event === "message" && event.replace) heard.text = event.content;
    else if (event.event === "message" && !event.contentType) heard.text += event.content;
    if (["completed", "cancelled", "error"].includes(event.event)) heard.last = event;
  };
  window.heard = heard;
  return await new Promise((resolve) => {
    if (kind === "eventsource") {
      const source = new EventSource(path);
      source.onopen = () => { heard.opens += 1; };
      source.onmessage = (message) => {
        const event = JSON.parse(message.data);
        if (event.id && message.lastEventId !== event.id) heard.errors += 1000;
        take(event);
      };
      source.onerror = () => {
        heard.errors += 1;
        if (source.readyState === EventSource.CLOSED) resolve(heard);
      };
    } else {
      const socket = new WebSocket(location.origin.replace("http", "ws") + path);
      socket.onopen = () => { heard.opens += 1; };
      socket.onmessage = (message) => take(JSON.parse(message.data));
      socket.onclose = (close) => { heard.closed = [close.code, close.wasClean]; resolve(heard); };
    }
  });
}
"""
"""Follows `path` until the browser itself has given up on an EventSource, or a WebSocket is closed."""

NODE = """
const {EventSource} = require(process.argv[1]);
const source = new EventSource(process.argv[2]);
const heard = {ids: [], text: "", errors: [], last: null, code: null};
source.addEventListener("message", (message) => {
  const event = JSON.parse(message.data);
  if (event.id && message.lastEventId !== event.id) heard.errors.push("id");
  heard.ids.push(event.id);
  if (event.event === "message") heard.text += event.content;
  if (event.event === "completed") heard.last = event;
});
source.addEventListener("error", (error) => {
  heard.errors.push(error.code || "reconnect");
  if (source.readyState === 2) { console.log(JSON.stringify(heard)); process.exit(0); }
});
"""

FETCH_EVENT_SOURCE = """
globalThis.window = globalThis;
globalThis.document = Object.assign(new EventTarget(), {hidden: false});
const {fetchEventSource} = require(process.argv[1]);
const [url, body, pause] = process.argv.slice(2);
const heard = {ids: [], text: "", opens: 0, last: null};
const show = (hidden) => {
  document.hidden = hidden;
  document.dispatchEvent(new Event("visibilitychange"));
};
fetchEventSource(url, {
  method: "POST", body, headers: {"Content-Type": "application/json"},
  async onopen() { heard.opens += 1; },
  onmessage(message) {
    if (!message.data) return;
    const event = JSON.parse(message.data);
    heard.ids.push(event.id);
    if (event.event === "message") heard.text += event.content;
    if (["completed", "cancelled", "error"].includes(event.event)) heard.last = event;
    if (heard.ids.length === 5) {
      show(true);
      setTimeout(() => show(false), Number(pause));
    }
  },
  onerror(error) { throw error; },
}).then(() => { console.log(JSON.stringify(heard)); process.exit(0); });
"""
"""Sends a message as `@microsoft/fetch-event-source` does, hides its tab after five events, and shows it again."""
