/** Types of `coze-gateway.js`, the client of the Coze stream gateway. */

export type Transport = "sse" | "websocket" | "longpoll" | "eventsource";
export type State = "connecting" | "open" | "waiting" | "offline" | "closed";
export type Scope = `turns/${string}` | `conversations/${string}` | `shops/${string}`;

interface Positioned {
  /**
   * The event's position: opaque. What no connection brought has none: the whole answer of the older way, a last event
   * from the turn's record, the `cancelled` of a question taken back; nor has the notice `queued`.
   */
  id?: string;
}

export interface Started extends Positioned { event: "started"; conversationId: string; turnId: string; input: string }
export interface Message extends Positioned {
  event: "message";
  content: string;
  /** Absent for text; `card` or `object_string` for what is not. */
  contentType?: string;
  /** `content` is the whole answer anew. */
  replace?: boolean;
}
export interface Reasoning extends Positioned { event: "reasoning"; content: string }
export interface Tool extends Positioned { event: "tool"; phase: "call" | "output"; name: string; content: string }
/** Base64, as Coze sends it: Ogg Opus, or 24 kHz signed 16-bit little-endian mono PCM. */
export interface Audio extends Positioned { event: "audio"; content: string }
export interface Suggestion extends Positioned { event: "suggestion"; content: string }
export interface Notice extends Positioned {
  event: "notice";
  code: "queued" | "retrying" | "recovering";
  attempt?: number;
  delayMs?: number;
}
export interface ActionRequired extends Positioned { event: "action_required"; toolCalls: Record<string, unknown>[] }
export interface Completed extends Positioned {
  event: "completed";
  conversationId: string;
  turnId: string;
  content: string;
  usage: Record<string, unknown> | null;
  /** Absent in the older way, whose answer does not tell. */
  recovered?: boolean;
}
export interface Cancelled extends Positioned {
  event: "cancelled";
  /** Both absent when the question was stopped before the gateway was known to have it. */
  conversationId?: string;
  turnId?: string;
  content: string;
}
export interface Failed extends Positioned {
  event: "error";
  /** A sentence for a person, in the language the question asked for. */
  error: string;
  code: string;
  retryable: boolean;
  upstream?: { code?: number; logId?: string };
  conversationId: string;
  turnId: string;
  content: string;
}
/** The position asked for cannot be continued exactly: replace what you show by `content`. */
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
  | Started | Message | Reasoning | Tool | Audio | Suggestion | Notice | ActionRequired | LastEvent | Reset | ShopNotification;

export interface StateDetail {
  position: string | undefined;
  transport?: Transport;
  /** With `waiting`: how long. */
  delayMs?: number;
  /**
   * With `waiting`: why, as a problem's code, `unreachable`, or words for a log. With `connecting`: why none of
   * `transports`. With `connecting` and `open`: `whole answer`. `unreachable`: nobody answers. `forbidden_origin`: the
   * gateway's GATEWAY_ALLOWED_ORIGINS lacks this page's origin.
   */
  reason?: string;
  /** With `waiting`: the gateway itself asked for this delay, so `retryNow()` does not end it. */
  asked?: true;
  /** With `closed`: what ended it, when that was not the last event or `close()`. */
  error?: Error;
}

export interface Timing {
  /**
   * Silence after a request, in milliseconds, that counts as a buffering proxy. As much silence in mid-answer is looked
   * into. Default 3000.
   */
  firstByteMs: number;
  /** How long a tab is hidden before its connection is given back. Default 5000. */
  quietAfterMs: number;
  /** How long a failed transport is left alone at first; doubles each time. Default 5000. */
  penaltyMs: number;
  /** The longest that a failed transport is left alone. Default 120000. */
  penaltyMaxMs: number;
  /** The longest delay between two tries; 7000 at most while nobody answers. Default 30000. */
  backoffMaxMs: number;
  /** How long a long-poll waits, in seconds. Default 25. */
  pollSeconds: number;
  /** The least time between two long-polls. Default 150. */
  pollGapMs: number;
  /** How long the gateway's configuration is waited for at least. Default 3000. */
  configMs: number;
  /** How long a plain request is waited for, and `token()`. Default 15000. */
  requestMs: number;
  /** How long `cancel()` looks for the turn of a question that is on its way before it ends without. Default 500. */
  stopMs: number;
  /**
   * How often a question is tried before `done` rejects, always under one key. Each time it goes by every transport that
   * may bring it. While nobody answers it isn't sent, and given up after so many of the longest delays: 56 s by default.
   * Default 8.
   */
  asks: number;
}

/** What is needed of a `WebSocket`: the browser's, or one of a package such as `ws`. */
export interface SocketLike {
  readonly readyState: number;
  send(text: string): void;
  close(): void;
  onopen: any;
  onmessage: any;
  onerror: any;
  onclose: any;
}

/** What is needed of an `EventSource`. */
export interface SourceLike {
  close(): void;
  onopen: any;
  onmessage: any;
  onerror: any;
}

export interface LineOptions {
  /** The gateway's address; in a page, its own origin by default, and it may be relative to the page's address. */
  baseUrl?: string | URL | undefined;
  /** In order of liking. Default `["sse", "websocket", "longpoll"]`. Where none of the list is to be had, long-poll. */
  transports?: Transport[] | undefined;
  /** A bearer token, or a function that gives a fresh one for each connection, within `timing.requestMs`, or none. */
  token?: string | (() => string | undefined | Promise<string | undefined>) | undefined;
  /** `Accept-Language` of requests: the language of problems and of `error` events. */
  language?: string | undefined;
  signal?: AbortSignal | undefined;
  onEvent?: ((event: GatewayEvent) => void) | undefined;
  onState?: ((state: State, detail: StateDetail) => void) | undefined;
  timing?: { [name in keyof Timing]?: Timing[name] | undefined } | undefined;
  /** Stand-ins for the browser's own, for tests and for runtimes without them. */
  network?: {
    fetch?: ((url: URL, init: RequestInit) => Promise<Response>) | undefined;
    WebSocket?: (new (url: string) => SocketLike) | undefined;
    EventSource?: (new (url: string) => SourceLike) | undefined;
  } | undefined;
  /** Source of jitter, from 0 to 1. Default `Math.random`. */
  random?: (() => number) | undefined;
}

export interface ConnectOptions extends LineOptions {
  /** With the id as it is: the module escapes what an address may not hold. */
  scope: Scope;
  /**
   * The position to go on after; `"0"` is the oldest kept. Without it, or with what an empty storage gives: from the
   * running turn's beginning, else from now.
   */
  after?: string | null | undefined;
}

export interface ChatOptions extends LineOptions {
  userId?: string | undefined;
  message: string;
  botId: string;
  shopId?: string | undefined;
  conversationId?: string | undefined;
  attachments?: { type: "image" | "file" | "audio"; url?: string | undefined; fileId?: string | undefined }[] | undefined;
  customVariables?: Record<string, string> | undefined;
  metaData?: Record<string, string> | undefined;
  onBusy?: "reject" | "queue" | "interrupt" | undefined;
  onDisconnect?: "continue" | "cancel" | undefined;
  /** `false` asks for the whole answer at once, the older way. Default true. */
  streaming?: boolean | undefined;
  /** Asking twice under one key asks once. Default: a random one for each call. */
  idempotencyKey?: string | undefined;
}

export interface Connection {
  /** Stops listening. The turn goes on. */
  close(): void;
  /** Changes the order of liking now; leaves the present transport at its position if another is liked best. */
  prefer(transports: Transport[]): void;
  /**
   * For a button: ends a pause now, unless the gateway asked for it (`asked`), and makes the next ones short again. No
   * more than one try a second comes of it. An `online` event and a tab that is seen again do the same.
   */
  retryNow(): void;
  readonly position: string | undefined;
  readonly transport: Transport | undefined;
  readonly state: State;
}

export interface Chat extends Connection {
  /** The turn's last event; rejects with `GatewayError` when the question was not taken, `AbortError` after `close()`. */
  readonly done: Promise<LastEvent>;
  /**
   * Stops the turn itself: its last event will be `cancelled`. Before the gateway has the question it ends at once, and
   * nothing is asked any more. Resolves when the gateway has heard it, or needs not; rejects after five tries.
   */
  cancel(): Promise<void>;
  readonly conversationId: string | undefined;
  readonly turnId: string | undefined;
}

export function connect(options: ConnectOptions): Connection;
export function chat(options: ChatOptions): Chat;

/** The text of an answer after one more event: joins pieces, starts over at `replace` and `reset`. */
export function fold(text: string, event: GatewayEvent): string;

export class GatewayError extends Error {
  readonly status: number;
  /** A problem code of the gateway (`forbidden_origin` names the setting and the origin), or `unreachable`, or `unknown` for an answer that was not the gateway's. */
  readonly code: string;
  readonly retryAfterMs: number | undefined;
  readonly problem: Record<string, unknown> | undefined;
}

/** Incremental parser of `text/event-stream`; text comes in pieces cut anywhere. An event above 64 Mi characters is a `RangeError`. */
export class EventStreamParser {
  constructor(handlers: {
    onEvent: (data: string, id: string | undefined, type: string) => void;
    onRetry?: (milliseconds: number) => void;
    onComment?: (text: string) => void;
    onId?: (id: string) => void;
  });
  push(text: string): void;
}
