// The server's OpenAI interface: models, and answers as a stream of server-sent events.

const KEY = "llmx.key";
const heldKey = { value: null }; // where sessionStorage is refused

export function setKey(key) {
  heldKey.value = key;
  try { sessionStorage.setItem(KEY, key); } catch (error) { console.info("the key is not kept:", error.message); }
}

function headers() {
  let key = heldKey.value;
  try { key ??= sessionStorage.getItem(KEY); } catch (error) { console.info("no key is kept:", error.message); }
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

/** What went wrong: `status` is HTTP's, 0 for no answer at all; `kind` is "lost" where an answer broke off, `code` the server's word. */
export class ServerError extends Error {
  constructor(status, message, { retryAfter = null, kind = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, retryAfter, kind, code });
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, error.message, { kind: "offline" });
  }
  if (response.ok) return response;
  const { message, code } = told(await response.text());
  const seconds = parseInt(response.headers.get("Retry-After") ?? "", 10);
  throw new ServerError(response.status, message || response.statusText, { retryAfter: Number.isNaN(seconds) ? null : seconds, code });
}

function told(text) {
  try {
    return JSON.parse(text).error ?? { message: text };
  } catch {
    return { message: text.slice(0, 300) }; // not in OpenAI's form: a proxy's page, say
  }
}

export async function models() {
  return (await (await request("/v1/models", {})).json()).data;
}

/** Yield the events of an answer; throws unless it comes to its `[DONE]`. */
export async function* events(path, body, signal) {
  const response = await request(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await read(reader);
    if (done) throw new ServerError(0, "", { kind: "lost" });
    const lines = (waiting + value).split(/\r?\n/);
    waiting = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(event.error.status ?? 500, event.error.message);
      yield event;
    }
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, error.message, { kind: "lost" });
  }
}
