/** Uploads: a file goes through the gateway to Coze, so that a question can name it in its `attachments`. */
import { Gateway } from "./gateway.js";
import { GatewayError, problem, stranger, unreachable, whyNot } from "./errors.js";
import { watchSignal } from "./signals.js";
import { parseObject, textOr } from "./values.js";

const STALLED_MS = 90_000; // the gateway gives Coze 60 s for its answer

/** Sends a file. @param {Blob} file @param {import("./coze-gateway").UploadOptions} options */
export async function send(file, options) {
  const total = file.size;
  const tell = (sent) => options.onProgress?.({ sent: Math.min(sent, total), total });
  const { signal } = options;
  if (signal?.aborted) throw givenUp();
  const gateway = new Gateway(options, signal);
  const headers = await gateway.headers({}, signal);
  const form = new FormData();
  form.append("file", file, textOr(options.fileName) ?? textOr(file.name) ?? "file");
  const url = gateway.url("/api/coze/files", { userId: options.userId, shopId: options.shopId });
  const XHR = options.network?.XMLHttpRequest ?? (options.network?.fetch ? undefined : globalThis.XMLHttpRequest);
  tell(0);
  const { response, text } = await (XHR ? byRequest(new XHR(), url, headers, form, signal, tell) : byFetch(gateway, url, headers, form, signal));
  const answer = response.ok ? parseObject(text) : undefined;
  if (!response.ok) throw problem(response, text);
  if (typeof answer?.fileId !== "string") throw stranger(response);
  tell(total);
  return answer;
}

/** The browser's older way, which alone tells how much was sent. It is given up when nothing moves any more. */
function byRequest(request, url, headers, form, signal, tell) {
  return new Promise((resolve, reject) => {
    let timer;
    const moves = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        reject(unreachable({ why: `nothing moved for ${STALLED_MS} ms` }));
        request.abort();
      }, STALLED_MS);
    };
    const stop = watchSignal(signal, () => request.abort());
    request.upload.onprogress = ({ loaded }) => {
      moves();
      tell(loaded);
    };
    request.onload = () => resolve({ response: responseOf(request), text: request.responseText });
    request.onerror = () => reject(unreachable({}));
    request.onabort = () => reject(givenUp());
    request.onloadend = () => {
      clearTimeout(timer);
      stop();
    };
    request.open("POST", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    moves();
    request.send(form);
  });
}

async function byFetch(gateway, url, headers, body, signal) {
  try {
    const response = await gateway.fetch(url, { method: "POST", cache: "no-store", headers, body, signal });
    return { response, text: await response.text() };
  } catch (error) {
    if (signal?.aborted) throw givenUp();
    throw error instanceof GatewayError ? error : unreachable({ why: whyNot(error) });
  }
}

/** What the rest of the module expects of a response. */
function responseOf(request) {
  const { status } = request;
  return { ok: status >= 200 && status < 300, status, headers: { get: (name) => request.getResponseHeader(name) } };
}

function givenUp() {
  return new DOMException("The upload was given up.", "AbortError");
}
