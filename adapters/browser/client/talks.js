/** A user's conversations, by plain requests: the list, titles, deleting, and feedback on answers. */
import { GatewayError, problem } from "./errors.js";
import { Gateway } from "./gateway.js";

const JSON_HEADERS = { "Content-Type": "application/json" };

export class Talks {
  #gateway;
  #userId;

  /** @param {import("./coze-gateway").ConversationsOptions} options */
  constructor(options) {
    this.#gateway = new Gateway(options, options.signal ?? null);
    this.#userId = options.userId;
  }

  list({ shopId, limit, cursor } = {}) {
    const query = { userId: this.#userId, shopId, limit, cursor };
    return this.#ask("conversations", { query });
  }

  rename(conversationId, title) {
    return this.#ask(`conversations/${encodeURIComponent(conversationId)}`, this.#body("PATCH", { title }));
  }

  async remove(conversationId) {
    await this.#ask(`conversations/${encodeURIComponent(conversationId)}`, { method: "DELETE" });
  }

  feedback(turnId, feedback, comment) {
    return this.#ask(`turns/${encodeURIComponent(turnId)}/feedback`, this.#body("PUT", { feedback, comment }));
  }

  #body(method, fields) {
    return { method, headers: JSON_HEADERS, body: JSON.stringify(fields) };
  }

  /** The JSON that is answered; undefined for an answer without any. */
  async #ask(path, how) {
    let answer;
    try {
      answer = await this.#gateway.request(`/api/coze/${path}`, how);
    } catch (error) {
      if (error instanceof GatewayError || error?.name === "AbortError") throw error;
      throw new GatewayError(String(error?.message ?? error));
    }
    const { response, text } = answer;
    if (!response.ok) throw problem(response, text);
    try {
      return text ? JSON.parse(text) : undefined;
    } catch {
      throw problem(response, text); // something else than the gateway answered
    }
  }
}
