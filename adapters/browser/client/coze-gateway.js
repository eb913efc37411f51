/**
 * Browser and Node client of the Coze stream gateway: ES modules without any dependency. Import only this one; the
 * others are internal and may change with any version.
 *
 * `chat()` asks a question and streams the answer, `run()` does so with a workflow, `connect()` listens to a turn, a
 * conversation or a shop. All use a `Line`. `upload()` sends a file that a question may then name;
 * `conversations()` makes plain requests about a user's conversations.
 */
import { Line } from "./line.js";
import { headerValue } from "./options.js";
import { Question } from "./question.js";
import { Talks } from "./talks.js";
import { send } from "./upload.js";

// All files are named here, so that a browser requests them at once instead of level by level, with a round trip each.
import "./decisions.js";
import "./errors.js";
import "./events.js";
import "./gateway.js";
import "./healing.js";
import "./health.js";
import "./legs/eventsource.js";
import "./legs/leg.js";
import "./legs/legs.js";
import "./legs/longpoll.js";
import "./legs/silence.js";
import "./legs/sse.js";
import "./legs/websocket.js";
import "./parser.js";
import "./pauses.js";
import "./presence.js";
import "./signals.js";
import "./state.js";
import "./stop.js";
import "./tab.js";
import "./transports.js";
import "./values.js";
import "./whole.js";

export { GatewayError } from "./errors.js";
export { fold } from "./events.js";
export { EventStreamParser } from "./parser.js";

/**
 * Listens to `turns/ID`, `conversations/ID` or `shops/ID`. A turn's line closes by itself after its last event.
 * @param {import("./coze-gateway").ConnectOptions} options
 * @returns {import("./coze-gateway").Connection}
 */
export function connect(options) {
  if (!/^(turns|conversations|shops)\/./.test(String(options?.scope ?? ""))) {
    throw new TypeError(`scope must be "turns/ID", "conversations/ID" or "shops/ID", not ${JSON.stringify(options?.scope)}`);
  }
  const nowhere = options.after === null || options.after === ""; // from a storage that holds no position
  if (!nowhere && options.after !== undefined) headerValue("after", String(options.after));
  const line = new Line(options, { scope: String(options.scope), position: nowhere ? undefined : options.after });
  line.run();
  return {
    close: () => line.close(),
    prefer: (transports) => line.prefer(transports),
    retryNow: () => line.retryNow(),
    get position() { return line.state.position; },
    get transport() { return line.state.transport; },
    get state() { return line.state.name; },
  };
}

/**
 * Asks a question. `done` settles once: it resolves with the turn's last event, or rejects with a `GatewayError` if the
 * gateway did not accept the question, or with an `AbortError` after `close()` or the signal.
 * @param {import("./coze-gateway").ChatOptions} options
 * @returns {import("./coze-gateway").Chat}
 */
export function chat(options = {}) {
  return ask(options, new Question(options));
}

/**
 * Runs a workflow; otherwise like `chat()`.
 * @param {import("./coze-gateway").RunOptions} options
 * @returns {import("./coze-gateway").Chat}
 */
export function run(options = {}) {
  if (!options.workflowId) throw new TypeError("workflowId is needed");
  return ask(options, new Question(options, String(options.workflowId)));
}

function ask(options, question) {
  let settle;
  const done = new Promise((resolve, reject) => {
    settle = (last, error) => (error ? reject(error) : resolve(last));
  });
  done.catch(() => {}); // callers that ignore `done` must not get an unhandled rejection
  const line = new Line(options, { question }, settle);
  line.run();
  return {
    done,
    cancel: () => line.cancel(),
    close: () => line.close(),
    prefer: (transports) => line.prefer(transports),
    retryNow: () => line.retryNow(),
    get conversationId() { return line.state.conversationId; },
    get turnId() { return line.state.turnId; },
    get position() { return line.state.position; },
    get transport() { return line.state.transport; },
    get state() { return line.state.name; },
  };
}

/**
 * Sends a file through the gateway to Coze. Resolves with `{fileId, fileName, bytes, createdAt}`; rejects with a
 * `GatewayError`, or with an `AbortError` after the signal. It is not repeated: whether to is the caller's decision.
 * @param {Blob} file
 * @param {import("./coze-gateway").UploadOptions} options
 * @returns {Promise<import("./coze-gateway").UploadedFile>}
 */
export function upload(file, options = {}) {
  if (!(file instanceof Blob)) throw new TypeError("upload() takes a File or a Blob");
  return send(file, options);
}

/**
 * A user's conversations: `list()`, `rename()`, `remove()`, and `feedback()` on answers.
 * @param {import("./coze-gateway").ConversationsOptions} options
 * @returns {import("./coze-gateway").Conversations}
 */
export function conversations(options = {}) {
  const talks = new Talks(options);
  return {
    list: (page) => talks.list(page),
    rename: (conversationId, title) => talks.rename(conversationId, title),
    remove: (conversationId) => talks.remove(conversationId),
    feedback: (turnId, feedback, comment) => talks.feedback(turnId, feedback, comment),
  };
}
