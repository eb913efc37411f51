/** Types of `coze-gateway.js`, the client of the Coze stream gateway. */

export type Transport = "sse" | "websocket" | "longpoll" | "eventsource";
export type State = "connecting" | "open" | "waiting" | "offline" | "closed";
export type Scope = `turns/${string}` | `conversations/${string}` | `shops/${string}`;

interface Positioned {
  /**
   * The event's position, which is opaque. Events that no connection brought have none: the whole answer of the older
   * way, a last event from the turn's record, and the `cancelled` of a question that was taken back. The notice `queued`
   * has none either.
   */
  id?: string;
}

export interface Started extends Positioned { event: "started"; conversationId: string; turnId: string; input: string }
export interface Message extends Positioned {
  event: "message";
  content: string;
  /** Absent for text; otherwise `card` or `object_string`. */
  contentType?: string;
  /** `content` is the whole answer from its beginning, because Coze rewrote it. */
  replace?: boolean;
}
export interface Reasoning extends Positioned { event: "reasoning"; content: string }
export interface Tool extends Positioned { event: "tool"; phase: "call" | "output"; name: string; content: string }
/** Base64, as Coze sends it: Ogg Opus, or 24 kHz signed 16-bit little-endian mono PCM. */
export interface Audio extends Positioned { event: "audio"; content: string }
export interface Suggestion extends Positioned { event: "suggestion"; content: string }
export interface Notice extends Positioned {
  event: "notice";
  code: "queued" | "retrying" | "recovering" | "unrecoverable";
  attempt?: number;
  delayMs?: number;
}
/** The text from here on comes from this node of a workflow. `finished`: nothing follows from it after that. */
export interface Node extends Positioned { event: "node"; title: string; nodeId: string; finished: boolean }
export interface ActionRequired extends Positioned { event: "action_required"; toolCalls: Record<string, unknown>[] }
export interface Completed extends Positioned {
  event: "completed";
  conversationId: string;
  turnId: string;
  content: string;
  usage: Record<string, unknown> | null;
  /** Absent in the older way, whose answer does not say it. */
  recovered?: boolean;
  /** The answer ends with a question of the bot: the next message of the conversation is the reply. Otherwise absent. */
  awaitingReply?: true;
}
export interface Cancelled extends Positioned {
  event: "cancelled";
  /** Both are absent if the question was stopped before it was known that the gateway had it. */
  conversationId?: string;
  turnId?: string;
  content: string;
}
export interface Failed extends Positioned {
  event: "error";
  /** A sentence for a person, in the language that the question asked for. */
  error: string;
  code: string;
  retryable: boolean;
  upstream?: { code?: number; logId?: string };
  conversationId: string;
  turnId: string;
  content: string;
}
/** The requested position can't be continued exactly: replace what you show by `content`. */
export interface Reset extends Positioned {
  event: "reset";
  reason: "expired" | "unknown" | "ahead";
  turnId?: string;
  status?: string;
  content: string;
}
export interface ShopNotification extends Positioned {
  event: "notification";
  type: "turn.started" | "turn.completed" | "turn.failed" | "turn.cancelled";
  conversationId: string;
  turnId: string;
  userId: string;
  preview: string;
}

export type LastEvent = Completed | Cancelled | Failed;
export type GatewayEvent =
  | Started | Message | Reasoning | Tool | Audio | Suggestion | Notice | Node | ActionRequired | LastEvent | Reset | ShopNotification;

export interface StateDetail {
  position: string | undefined;
  transport?: Transport;
  /** With `waiting`: how long. */
  delayMs?: number;
  /**
   * With `waiting`: why the line waits, as a problem's code, as `unreachable` (no gateway answers), or as words for a log.
   * `forbidden_origin` means that the gateway's GATEWAY_ALLOWED_ORIGINS lacks this page's origin. With `connecting`: why
   * none of `transports` is used. With `connecting` and `open`, `whole answer`: the answer comes without streaming.
   */
  reason?: string;
  /** With `waiting`: the gateway itself asked for this delay, so `retryNow()` does not end it. */
  asked?: true;
  /** With `closed`: the error that ended the line, if neither the last event nor `close()` did. */
  error?: Error;
}

export interface Timing {
  /**
   * Milliseconds of silence after a request that mean that a proxy buffers. If an answer is silent for as long in its
   * middle, the line checks the connection. Default 3000.
   */
  firstByteMs: number;
  /** How long a tab stays hidden before its connection is closed. Default 5000. */
  quietAfterMs: number;
  /** How long a transport is not used after its first failure. Doubles with each failure. Default 5000. */
  penaltyMs: number;
  /** The longest time for which a failed transport is not used. Default 120000. */
  penaltyMaxMs: number;
  /** The longest delay between two attempts; while no gateway answers it is 7000 at most. Default 30000. */
  backoffMaxMs: number;
  /** How long a long-poll waits, in seconds. Default 25. */
  pollSeconds: number;
  /** The shortest time between two long-polls. Default 150. */
  pollGapMs: number;
  /** The shortest deadline for fetching the gateway's configuration. Default 3000. */
  configMs: number;
  /** The deadline of a plain request, and of `token()`. Default 15000. */
  requestMs: number;
  /** How long `cancel()` looks for the turn of a question that is on its way, before it ends without one. Default 500. */
  stopMs: number;
  /**
   * How often a question is sent before `done` rejects, always under one key, and each time by every transport that may
   * bring it. While no gateway answers, the question is not sent, and is given up after this number of the longest
   * delays, by default 56 s. Default 8.
   */
  asks: number;
}

/** The parts of a `WebSocket` that the module uses. It may be the browser's, or that of a package such as `ws`. */
export interface SocketLike {
  readonly readyState: number;
  send(text: string): void;
  close(): void;
  onopen: any;
  onmessage: any;
  onerror: any;
  onclose: any;
}

/** The parts of an `EventSource` that the module uses. */
export interface SourceLike {
  close(): void;
  onopen: any;
  onmessage: any;
  onerror: any;
}

export interface LineOptions {
  /** The gateway's address. In a page the default is the page's own origin, and it may be relative to the page's address. */
  baseUrl?: string | URL | undefined;
  /** In order of preference. Default `["sse", "websocket", "longpoll"]`. If none of them can be used, long-poll is. */
  transports?: Transport[] | undefined;
  /** A bearer token, or a function that returns a fresh one, or none, for each connection within `timing.requestMs`. */
  token?: string | (() => string | undefined | Promise<string | undefined>) | undefined;
  /** `Accept-Language` of requests: the language of problems and of `error` events. */
  language?: string | undefined;
  signal?: AbortSignal | undefined;
  onEvent?: ((event: GatewayEvent) => void) | undefined;
  onState?: ((state: State, detail: StateDetail) => void) | undefined;
  timing?: { [name in keyof Timing]?: Timing[name] | undefined } | undefined;
  /** Replacements for the browser's own, for tests and for runtimes that have none. */
  network?: {
    fetch?: ((url: URL, init: RequestInit) => Promise<Response>) | undefined;
    WebSocket?: (new (url: string) => SocketLike) | undefined;
    EventSource?: (new (url: string) => SourceLike) | undefined;
  } | undefined;
  /** The source of jitter: numbers from 0 to 1. Default `Math.random`. */
  random?: (() => number) | undefined;
}

export interface ConnectOptions extends LineOptions {
  /** Contains the id unescaped: the module escapes characters that an address may not hold. */
  scope: Scope;
  /**
   * The position after which to continue; `"0"` is before the oldest event that is kept. Without it, or with null or ""
   * from an empty storage, the line starts at the beginning of the running turn, or, if none runs, now.
   */
  after?: string | null | undefined;
}

export interface ChatOptions extends LineOptions {
  userId?: string | undefined;
  message: string;
  /** Required unless there is a `workflowId`. */
  botId?: string | undefined;
  /** The chatflow that gets the message, instead of a bot. It may belong to `botId` or `appId`. */
  workflowId?: string | undefined;
  appId?: string | undefined;
  /** Values for the start node. */
  parameters?: Record<string, unknown> | undefined;
  shopId?: string | undefined;
  conversationId?: string | undefined;
  attachments?: { type: "image" | "file" | "audio"; url?: string | undefined; fileId?: string | undefined }[] | undefined;
  /** What was said before, oldest first: 99 messages at most. */
  context?: { role: "user" | "assistant"; content: string }[] | undefined;
  customVariables?: Record<string, string> | undefined;
  metaData?: Record<string, string> | undefined;
  shortcutCommand?: { commandId: string; parameters?: Record<string, string> | undefined } | undefined;
  enableCard?: boolean | undefined;
  /** With `false` Coze keeps no record, and a turn that breaks can't be recovered. */
  autoSaveHistory?: boolean | undefined;
  onBusy?: "reject" | "queue" | "interrupt" | undefined;
  onDisconnect?: "continue" | "cancel" | undefined;
  /** `false` asks for the whole answer at once, the older way. Default true. */
  streaming?: boolean | undefined;
  /** A question that is asked twice under one key starts only one turn. Default: a random key for each call. */
  idempotencyKey?: string | undefined;
}

export interface RunOptions extends Pick<
  ChatOptions,
  "userId" | "botId" | "appId" | "parameters" | "shopId" | "conversationId" | "onBusy" | "onDisconnect" | "streaming" | "idempotencyKey"
>, LineOptions {
  /** The workflow that is run. It may belong to `botId` or `appId`. */
  workflowId: string;
}

export interface Connection {
  /** Stops listening. The turn goes on. */
  close(): void;
  /** Changes the order of preference now. If another transport comes first, the line continues over it at its position. */
  prefer(transports: Transport[]): void;
  /**
   * For a button: ends a pause now, unless the gateway asked for it (`asked`), and makes the next pauses short again. It
   * causes at most one attempt per second. An `online` event, and a tab that is seen again, have the same effect.
   */
  retryNow(): void;
  readonly position: string | undefined;
  readonly transport: Transport | undefined;
  readonly state: State;
}

export interface Chat extends Connection {
  /**
   * The turn's last event. Rejects with a `GatewayError` if the gateway did not accept the question, or with an
   * `AbortError` after `close()`.
   */
  readonly done: Promise<LastEvent>;
  /**
   * Stops the turn itself: its last event will be `cancelled`. If the gateway does not have the question yet, it ends at
   * once and is not asked any more. Resolves when the gateway knows, or does not need to; rejects after five attempts.
   */
  cancel(): Promise<void>;
  readonly conversationId: string | undefined;
  readonly turnId: string | undefined;
}

export interface UploadOptions {
  /** As in `LineOptions`. */
  baseUrl?: string | URL | undefined;
  token?: string | (() => string | undefined | Promise<string | undefined>) | undefined;
  language?: string | undefined;
  userId?: string | undefined;
  shopId?: string | undefined;
  /** Default: the file's own name. */
  fileName?: string | undefined;
  /** Ends the upload; Coze then gets no more of the file. */
  signal?: AbortSignal | undefined;
  /** In a browser it is called as bytes leave; elsewhere only with 0 and at the end. */
  onProgress?: ((progress: { sent: number; total: number }) => void) | undefined;
  /** With a `fetch` but no `XMLHttpRequest` of your own, `fetch` is used. */
  network?: {
    fetch?: ((url: URL, init: RequestInit) => Promise<Response>) | undefined;
    XMLHttpRequest?: (new () => any) | undefined;
  } | undefined;
}

export interface UploadedFile {
  /** For `attachments`. */
  fileId: string;
  fileName: string;
  bytes: number;
  /** Unix seconds. */
  createdAt: number;
}

/**
 * Sends a file through the gateway to Coze. Rejects with a `GatewayError`, or with an `AbortError` after the signal. It is
 * not repeated: whether to is your decision.
 */
export function upload(file: Blob, options?: UploadOptions): Promise<UploadedFile>;

export type ConversationsOptions = Pick<LineOptions, "baseUrl" | "token" | "language" | "signal" | "timing" | "network"> & {
  /** Whose conversations. Not needed with a token that names the user. */
  userId?: string | undefined;
};

export interface Listed {
  conversationId: string;
  /** The first message's first 80 characters until somebody gives another one. */
  title: string;
  botId: string;
  shopId: string | null;
  /** Unix seconds. */
  createdAt: number;
  updatedAt: number;
}

/** Each call is one request. Rejects with a `GatewayError`, or with an `AbortError` after the signal. */
export interface Conversations {
  /** A page of the list, the newest first. `next` is the `cursor` of the next page. */
  list(page?: {
    shopId?: string | undefined;
    limit?: number | undefined;
    cursor?: string | undefined;
  }): Promise<{ conversations: Listed[]; next: string | null }>;
  /** With null the first message is the title again. */
  rename(conversationId: string, title: string | null): Promise<{ conversationId: string; title: string | null }>;
  /** Deletes a conversation for good. */
  remove(conversationId: string): Promise<void>;
  /** What the user thinks of a turn's answer. `atCoze` says whether Coze has taken it, too. */
  feedback(turnId: string, feedback: "like" | "unlike" | "none", comment?: string): Promise<{
    turnId: string;
    feedback: "like" | "unlike" | "none";
    comment: string;
    atCoze: boolean;
  }>;
}

export function conversations(options?: ConversationsOptions): Conversations;
export function connect(options: ConnectOptions): Connection;
export function chat(options: ChatOptions): Chat;
/** Runs a workflow; otherwise like `chat()`. */
export function run(options: RunOptions): Chat;

/** The text of an answer after one more event: pieces are appended, `replace` and `reset` start over. */
export function fold(text: string, event: GatewayEvent): string;

export class GatewayError extends Error {
  readonly status: number;
  /**
   * A problem code of the gateway, or `unreachable`, or `unknown` if something other than the gateway answered. With
   * `forbidden_origin` the message names the setting and the origin.
   */
  readonly code: string;
  readonly retryAfterMs: number | undefined;
  readonly problem: Record<string, unknown> | undefined;
}

/**
 * An incremental parser of `text/event-stream`. Text may be cut anywhere. Throws a `RangeError` if an event has more than
 * 64 Mi characters.
 */
export class EventStreamParser {
  constructor(handlers: {
    onEvent: (data: string, id: string | undefined, type: string) => void;
    onRetry?: (milliseconds: number) => void;
    onComment?: (text: string) => void;
    onId?: (id: string) => void;
  });
  push(text: string): void;
}
