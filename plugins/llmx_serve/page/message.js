// One message on the page: its text, what was thought, tools called, figures, troubles, and what can be done with it.
import { find, iconButton, make } from "./dom.js";
import { LiveMarkdown } from "./live.js";
import { codeBlock } from "./markdown.js";
import { number, t } from "./strings.js";

export class MessageView {
  constructor(chat, node, actions) {
    Object.assign(this, { chat, node, actions });
    const user = node.role === "user";
    this.thought = make("pre", { class: "thought", tabindex: 0 });
    this.thinking = make("details", { class: "thinking", hidden: true }, make("summary"), this.thought);
    this.body = make("div", { class: user || node.plain ? "body plain" : "body" });
    this.calls = make("div", { class: "calls" });
    this.trouble = make("div", { class: "trouble", hidden: true });
    this.note = make("p", { class: "note", hidden: true });
    this.figures = make("p", { class: "figures" });
    this.tools = make("div", { class: "tools" });
    this.element = make("article", { class: `message ${node.role}`, "data-id": node.id, "aria-label": user ? t("you") : t("answer") },
      user ? this.body : [this.note, this.thinking, this.body, this.calls, this.trouble], make("div", { class: "under" }, this.tools, this.figures));
    this.markdown = new LiveMarkdown(this.body);
    this.update(node.state !== "running");
  }

  /** Show what the message is by now. */
  update(finished) {
    const { node } = this;
    this.element.setAttribute("aria-busy", String(!finished));
    this.element.classList.toggle("waiting", !finished && !node.text && !node.reasoning && !node.calls.length);
    if (node.role === "user" || node.plain) this.body.textContent = node.text;
    else this.markdown.update(node.text, finished);
    for (const button of this.body.querySelectorAll(".copy-code:empty")) button.textContent = t("copy");
    if (node.role === "user") { this.#tools(); return; }
    this.note.hidden = !node.dropped;
    this.note.textContent = node.dropped > 1 ? t("leftOut", { count: number(node.dropped) }) : t("leftOutOne");
    this.#thinking(finished);
    this.calls.replaceChildren(...node.calls.map(toolCall));
    this.#figures();
    this.#trouble(finished);
    if (finished) this.#tools(); else this.tools.replaceChildren();
  }

  #thinking(finished) {
    const { node } = this, { data = "" } = this.thought.firstChild ?? {};
    this.thinking.hidden = !node.reasoning;
    if (!node.reasoning) return;
    const over = finished || node.text !== "" || node.calls.length > 0;
    const s = number(node.figures.thought_s ?? 0, 1);
    this.thinking.firstChild.textContent = over ? t("thought", { s }) : t("thinking");
    if (node.reasoning.startsWith(data) && data) this.thought.firstChild.appendData(node.reasoning.slice(data.length));
    else this.thought.textContent = node.reasoning;
  }

  #figures() {
    const { tokens, rate, first_s: first, prompt, cached } = this.node.figures;
    const parts = [this.node.model];
    if (tokens) parts.push(tokens === 1 ? t("oneToken") : t("tokens", { count: number(tokens) }));
    if (rate) parts.push(t("rate", { rate: number(rate, rate < 100 ? 1 : 0) }));
    if (first !== undefined) parts.push(t("first", { s: number(first, 2) }));
    this.figures.replaceChildren(...parts.map((part) => make("span", {}, part)));
    if (prompt === undefined) return;
    this.figures.title = t("prompt", { count: number(prompt) }) + (cached ? `, ${t("cached", { count: number(cached) })}` : "");
  }

  #trouble(finished) {
    const { node } = this;
    const text = node.busy_s ? t("busyIn", { s: number(node.busy_s) }) : finished ? outcome(node) : "";
    this.trouble.hidden = !text;
    this.trouble.className = node.state === "error" || node.busy_s ? "trouble bad" : "trouble";
    const act = (key, action) => make("button", { type: "button", onclick: action }, t(key));
    const buttons = [];
    if (node.busy_s) buttons.push(act("now", () => this.actions.retryNow(node)));
    else if (node.state === "error") buttons.push(act("again", () => this.actions.retry(node)));
    else if (node.plain && node.finish === "length" && !node.children.length) buttons.push(act("continue", () => this.actions.goOn(node)));
    const told = this.trouble.firstChild?.textContent;
    if (told !== text || this.trouble.childElementCount !== 1 + buttons.length) {
      this.trouble.replaceChildren(make("span", { role: node.state === "error" ? "alert" : null }, text), ...buttons);
    }
  }

  #tools() {
    const { node, chat, actions } = this, all = chat.siblings(node), at = all.indexOf(node.id);
    const buttons = [];
    if (all.length > 1) {
      const turn = (by, name, label) => {
        const button = iconButton(name, t(label), () => actions.turn(node, by), label);
        button.disabled = !(at + by in all);
        return button;
      };
      const of = make("span", { class: "of", title: t("of", { number: at + 1, count: all.length }) }, `${at + 1}/${all.length}`);
      buttons.push(make("span", { class: "turns" }, turn(-1, "back", "before"), of, turn(1, "next", "after")));
    }
    buttons.push(iconButton("copy", t("copy"), () => actions.copy(node.text), "copy"));
    if (node.role === "user") buttons.push(iconButton("edit", t("edit"), () => this.edit(), "edit"));
    else buttons.push(iconButton("again", t("regenerate"), () => actions.regenerate(node), "again"));
    this.tools.replaceChildren(...buttons);
  }

  /** Put a field in the place of the text; sending it begins another branch of the chat. */
  edit() {
    const field = make("textarea", { "aria-label": t("edit"), rows: Math.min(12, this.node.text.split("\n").length + 1) });
    const close = () => { form.remove(); this.element.classList.remove("edited"); this.tools.querySelector(".edit")?.focus(); };
    const form = make("form", { class: "editor" }, field, make("div", { class: "row" },
      make("button", { type: "button", onclick: close }, t("cancel")), make("button", { class: "strong" }, t("save"))));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) this.actions.edited(this.node, field.value);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); close(); }
      if (sends(event)) { event.preventDefault(); form.requestSubmit(); }
    });
    field.value = this.node.text;
    this.element.classList.add("edited");
    this.body.after(form);
    field.focus();
  }
}

const touch = matchMedia("(hover: none) and (pointer: coarse)");
export const byTouch = () => touch.matches;

/** Whether a key press sends: Enter, but not while a Chinese word is being composed, nor on a phone's keyboard. */
export function sends(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229 && !byTouch();
}

function toolCall({ name, arguments: text }) {
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* still being written: shown as it stands */ }
  const block = codeBlock({ language: "json", text: shown });
  block.querySelector(".bar span").textContent = t("calls", { name });
  block.querySelector(".copy-code").textContent = t("copy");
  return block;
}

function outcome({ state, finish, error, text, calls }) {
  if (state === "stopped") return t("stopped");
  if (state === "interrupted") return t("interrupted");
  if (state === "error") return reason(error);
  if (finish === "length") return t("length");
  return text || calls.length ? "" : t("empty");
}

export function reason({ status, message, kind }) {
  if (kind === "offline") return t("offline");
  if (kind === "lost") return t("lost");
  if (status === 401) return t("keyNeeded");
  if (status === 429) return t("busy");
  return t(status >= 400 && status < 500 ? "refused" : "failed", { message });
}

/** Keep to the end of what grows, unless the reader has gone up. */
export class EndKeeper {
  #top = 0; atEnd = true;

  constructor(scroller, button) {
    Object.assign(this, { scroller, button });
    scroller.addEventListener("scroll", () => this.#moved(), { passive: true });
    button.addEventListener("click", () => { this.go(); find("#input").focus(); });
    new ResizeObserver(() => this.follow()).observe(scroller);
  }

  #moved() {
    const { scrollTop: top, scrollHeight, clientHeight } = this.scroller;
    if (scrollHeight - top - clientHeight < 8) this.atEnd = true;
    else if (top < this.#top) this.atEnd = false;
    this.#top = top;
    this.button.hidden = scrollHeight - top - clientHeight < 80;
  }

  follow() { if (this.atEnd) this.scroller.scrollTop = this.scroller.scrollHeight; else this.#moved(); }
  go() { this.atEnd = true; this.follow(); }
}
