/** Plain requests to the gateway, and their errors in words. */
import { GatewayError } from "../client/coze-gateway.js";
import { make, say } from "./dom.js";
import { language } from "./language.js";

const TIMEOUT_MS = 15_000;

/**
 * Requests JSON from a path below the gateway's `/api/coze/`. With `body` it is a POST, unless a `method` is named; with the idempotency key `key` it has
 * its effect once, however often it is sent. `baseUrl` ends with a slash.
 * @returns the answer's JSON. Rejects with a `GatewayError`; its `status` is 0 when nobody answered.
 */
export async function request({ baseUrl, token, network }, path, { body, method, key, prefer } = {}) {
  const headers = { "Accept-Language": language(), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const init = { method, headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    Object.assign(init, { method: method ?? "POST", body: JSON.stringify(body) });
    headers["Content-Type"] = "application/json";
  }
  if (key) headers["Idempotency-Key"] = key;
  if (prefer) headers.Prefer = prefer;
  try {
    new Headers(headers);
  } catch {
    throw new GatewayError("", { code: "unauthorized" }); // a token that no header can carry
  }
  let response;
  let answer;
  try {
    response = await network.fetch(`${baseUrl}api/coze/${path}`, init);
    answer = await response.text();
  } catch (error) {
    throw new GatewayError(String(error?.message ?? error));
  }
  const value = parse(answer);
  if (response.ok) return value;
  const problem = typeof value?.code === "string" ? value : undefined;
  throw new GatewayError(problem?.detail ?? "", { status: response.status, code: problem?.code ?? "unknown", problem });
}

/**
 * Gives a turn the results of the tools that it waits for. Rejects with a `GatewayError`, whose `answered` says that the
 * turn no longer waits.
 */
export async function giveOutputs(settings, turnId, toolOutputs) {
  try {
    await request(settings, `turns/${turnId}/tool-outputs`, { body: { toolOutputs } });
  } catch (error) {
    const turn = error.status ? await request(settings, `turns/${turnId}`).catch(() => undefined) : undefined;
    error.answered = turn !== undefined && turn.status !== "action_required";
    throw error;
  }
}

/** Says what the user thinks of a turn's answer. Rejects with what went wrong, for a person. */
export async function giveFeedback(settings, turnId, feedback) {
  try {
    await request(settings, `turns/${turnId}/feedback`, { method: "PUT", body: { feedback } });
  } catch (error) {
    throw sentence(error);
  }
}

/** What went wrong, for a person, in the gateway's words or the page's. `unreachable` is the key of the page's words for that. */
export function sentence(error, unreachable = "error_unreachable") {
  if (error.code === "forbidden_origin") return say("span", "error_origin", { "data-origin": location.origin });
  if (error.problem) return make("span", { lang: document.documentElement.lang }, error.message);
  if (error.status) return say("span", "error_status", { "data-status": error.status });
  return say("span", error.code === "unauthorized" ? "error_token" : unreachable);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
