// The same app on node's own http and nothing else: every listener is a response that is written to.
import http from "node:http";

const BASE = new URL(process.env.COZE_API_BASE);
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
const HEAD = { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" };
const turns = new Map();
let ids = 0;

class Turn {
  said = [];
  listeners = new Set();
  over = false;

  say(event) {
    const id = String(this.said.length + 1);
    const record = `id: ${id}\ndata: ${JSON.stringify({ ...event, id })}\n\n`;
    this.said.push(record);
    this.over = event.event === "completed";
    for (const response of this.listeners) {
      response.write(record);
      if (this.over) response.end();
    }
  }

  tell(response, headers = {}) {
    response.writeHead(200, { ...HEAD, ...headers });
    response.flushHeaders();
    if (this.said.length) response.write(this.said.join(""));
    if (this.over) return response.end();
    this.listeners.add(response);
    response.on("close", () => this.listeners.delete(response));
  }
}

function ask(turn, message) {
  const body = JSON.stringify({
    bot_id: "1",
    user_id: "1",
    stream: true,
    additional_messages: [{ role: "user", content: message, content_type: "text" }],
  });
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
  const request = http.request(new URL("/v3/chat", BASE), { method: "POST", agent, headers }, (response) => {
    let rest = "";
    let event = "";
    let whole = "";
    response.setEncoding("utf8");
    response.on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("event:")) event = line.slice(6);
        else if (line.startsWith("data:") && event === "conversation.message.delta") {
          const { content } = JSON.parse(line.slice(5));
          whole += content;
          turn.say({ event: "message", content });
        }
      }
    });
    response.on("end", () => turn.say({ event: "completed", content: whole }));
  });
  request.end(body);
}

http
  .createServer(async (request, response) => {
    const [, room, id] = /^\/api\/coze\/(turns|conversations)\/([^/]+)\/events$/.exec(request.url) ?? [];
    if (request.url === "/healthz") return response.end("ok");
    if (room === "turns") return turns.get(id).tell(response);
    if (room === "conversations") return new Turn().tell(response);
    let body = "";
    for await (const part of request) body += part;
    const { message } = JSON.parse(body);
    const name = `turn_${++ids}`;
    const turn = new Turn();
    turns.set(name, turn);
    turn.say({ event: "started", turnId: name, conversationId: name, input: message });
    ask(turn, message);
    turn.tell(response, { "X-Turn-Id": name, "X-Conversation-Id": name });
  })
  .listen({ host: "127.0.0.1", port: Number(process.env.PORT), backlog: 2048 });
