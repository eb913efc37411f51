import { useEffect, useRef, useState } from "react";
import Markdown from "react-markdown"; // renders no raw HTML, so a bot's answer cannot run a script
import { chat, fold, GatewayError } from "./client/coze-gateway.js"; // a copy of the gateway's folder adapters/browser/client

/** One conversation with a bot. `getToken` asks your backend for a fresh token; leave it out if the gateway has no auth. */
export function Chat({ gateway, botId, userId, getToken }) {
  const [turns, setTurns] = useState([]);
  const [draft, setDraft] = useState("");
  const running = useRef(null);
  const gone = useRef(null);

  useEffect(() => {
    gone.current = new AbortController();
    return () => gone.current.abort(); // stops listening; the answers themselves go on and are kept
  }, []);

  const change = (key, fields) => setTurns((all) => all.map((turn) => (turn.key === key ? { ...turn, ...fields } : turn)));

  async function ask(event) {
    event.preventDefault();
    const key = crypto.randomUUID();
    const message = draft;
    let text = "";
    setDraft("");
    setTurns((all) => [...all, { key, message, text, status: "running" }]);
    const turn = chat({
      baseUrl: gateway,
      token: getToken,
      botId,
      userId,
      message,
      conversationId: running.current?.conversationId,
      onBusy: "queue",
      signal: gone.current.signal,
      onEvent: (event) => change(key, { text: (text = fold(text, event)) }),
    });
    running.current = turn;
    try {
      const last = await turn.done;
      change(key, { status: last.event === "error" ? last.error : last.event });
    } catch (error) {
      if (error.name === "AbortError") return; // this component was unmounted
      change(key, { status: error instanceof GatewayError ? `${error.code}: ${error.message}` : String(error) });
    }
  }

  return (
    <section>
      {turns.map(({ key, message, text, status }) => (
        <article key={key} data-status={status}>
          <p><b>{message}</b></p>
          <Markdown>{text}</Markdown>
          <small>{status}</small>
        </article>
      ))}
      <form onSubmit={ask}>
        <input aria-label="Your question" value={draft} onChange={(event) => setDraft(event.target.value)} required />
        <button>Ask</button>
        <button type="button" onClick={() => running.current?.cancel()}>Stop</button>
      </form>
    </section>
  );
}
