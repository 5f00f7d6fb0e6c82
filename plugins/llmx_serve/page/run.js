// One answer being made: what is asked, what has come, how fast, and what to do when the server is busy.
import { events, ServerError } from "./wire.js";

const RETRIES_MOST = 8; // at a busy server; then only the button asks again
const SHORTEST_S = 0.01; // between the first and the last piece of an answer whose speed is told
const FULL = "context_length_exceeded";
const running = new Map(); // by chat: one answer at a time in each

export const runOf = (chat) => running.get(chat.id);

export class Run {
  #abort = new AbortController(); #wake = null; #begun = 0; #first = null; #last = null;

  constructor(chat, node, options, changed) {
    Object.assign(this, { chat, node, options, changed, tries: 0 });
    Object.assign(node, { state: "running", text: "", reasoning: "", calls: [], error: null, finish: null, figures: { tokens: 0 } });
    // What was left out for an earlier answer of this model does not come back.
    node.dropped = this.#told().findLast(({ role, model }) => role === "assistant" && model === node.model)?.dropped ?? 0;
  }

  async start() {
    running.set(this.chat.id, this);
    try {
      await this.#attempts();
      this.node.state = this.node.finish === "cancelled" ? "interrupted" : "done"; // by a server that ends
    } catch (error) {
      if (error.name === "AbortError") this.node.state = "stopped";
      else if (error instanceof ServerError) this.#fail(error);
      else { this.#fail(new ServerError(0, String(error))); throw error; }
    } finally {
      running.delete(this.chat.id);
      this.changed(this, true);
    }
  }

  stop() { this.#abort.abort(); this.#wake?.(); }
  retryNow() { this.#wake?.(); }

  async #attempts() {
    for (;;) {
      try {
        return await this.#attempt();
      } catch (error) {
        if (error.code === FULL && this.#makeRoom()) { this.changed(this, false); continue; }
        if (error.status !== 429 || this.tries >= RETRIES_MOST) throw error;
        this.tries += 1;
        await this.#wait(Math.max(1, error.retryAfter ?? 2));
      }
    }
  }

  async #wait(seconds) {
    for (let left = seconds; left > 0 && !this.#abort.signal.aborted; left -= 1) {
      this.node.busy_s = left;
      this.changed(this, false);
      const now = await new Promise((resolve) => {
        const timer = setTimeout(() => resolve(false), 1000);
        this.#wake = () => { clearTimeout(timer); resolve(true); };
      });
      if (now) break;
    }
    this.#wake = null;
    delete this.node.busy_s;
    this.#abort.signal.throwIfAborted();
  }

  async #attempt() {
    this.#begun = performance.now();
    const [path, body] = this.node.plain ? ["/v1/completions", this.#text()] : ["/v1/chat/completions", this.#messages()];
    const common = { model: this.node.model, stream: true, stream_options: { include_usage: true }, ...this.options.sampling };
    for await (const event of events(path, { ...common, ...body }, this.#abort.signal)) {
      if (event.usage) this.#count(event.usage);
      for (const choice of event.choices ?? []) this.#take(choice);
      this.changed(this, false);
    }
  }

  #text() { return { prompt: this.chat.above(this.node).map((node) => node.text).join("") }; }

  #messages() {
    const system = this.options.system.trim() ? [{ role: "system", content: this.options.system }] : [];
    return { messages: [...system, ...this.#told().slice(this.node.dropped).map(({ role, text }) => ({ role, content: text }))] };
  }

  // Without answers that failed, which said nothing, and without questions that no context has room for.
  #told() {
    const above = this.chat.above(this.node);
    return above.filter(({ text }, n) => text && (above[n + 1]?.text !== "" || above[n + 1].error?.code !== FULL));
  }

  // Leaves out the oldest turns, a quarter of them at a time: the answer needs room too. False: none is left.
  #makeRoom() {
    const { node } = this;
    if (node.plain) return false;
    const begins = this.#told().flatMap(({ role }, n) => (role === "user" && n > node.dropped ? [n] : []));
    node.dropped = begins[Math.floor((begins.length - 1) / 4)] ?? 0;
    return begins.length > 0;
  }

  #take({ delta = {}, text, finish_reason: finish }) {
    const { node } = this, content = delta.content ?? text ?? "", reasoning = delta.reasoning_content ?? "";
    node.text += content;
    node.reasoning += reasoning;
    for (const call of delta.tool_calls ?? []) {
      const known = (node.calls[call.index ?? 0] ??= { name: "", arguments: "" });
      known.name += call.function?.name ?? "";
      known.arguments += call.function?.arguments ?? "";
    }
    node.finish = finish ?? node.finish;
    if (!content && !reasoning && !delta.tool_calls) return;
    this.#last = performance.now();
    this.#first ??= this.#last;
    node.figures.tokens += 1; // nearly: one event tells one token, until the usage tells the exact number
    if (reasoning) node.figures.thought_s = (this.#last - this.#begun) / 1000;
    this.#measure();
  }

  #count(usage) {
    const { figures } = this.node;
    figures.tokens = usage.completion_tokens ?? figures.tokens;
    figures.prompt = usage.prompt_tokens;
    figures.cached = usage.prompt_tokens_details?.cached_tokens;
    this.#measure();
  }

  #measure() {
    const { figures } = this.node, seconds = (this.#last - this.#first) / 1000;
    if (this.#first !== null) figures.first_s = (this.#first - this.#begun) / 1000;
    // what came in one piece has no speed of its own
    figures.rate = figures.tokens > 1 && seconds >= SHORTEST_S ? (figures.tokens - 1) / seconds : undefined;
  }

  #fail({ status, message, kind, code }) {
    this.node.state = "error";
    this.node.error = { status, message, kind, code };
  }
}
