// Puts the page together: the list of chats, the open one, the composer, and the runs that fill answers in.
import { allChats, Chat, chatOf, keep, keepsNothing, kept } from "./chats.js";
import { copy, find, icon, iconButton, make } from "./dom.js";
import { byTouch, EndKeeper, MessageView, reason, sends } from "./message.js";
import { Run, runOf } from "./run.js";
import { chosen, nameTheme, openSettings } from "./settings.js";
import { otherLanguage, t, translate } from "./strings.js";
import { models, setKey } from "./wire.js";

const input = find("#input"), messages = find("#messages"), select = find("#model");
const end = new EndKeeper(find("#scroller"), find("#to-end"));
const views = new Map(); // by message
const live = new Map(); // the runs by chat, so that a chat left and come back to is the one that grows
let chat = Chat.fresh(), offered = [];

// --- the open chat -------------------------------------------------------------------------------------------------

function show() {
  views.clear();
  const path = chat.path();
  for (const node of path) views.set(node.id, new MessageView(chat, node, actions));
  const greeting = make("p", { class: "greeting" }, t(isPlain() ? "helloPlain" : "hello"));
  messages.replaceChildren(...(path.length ? [...views.values()].map((view) => view.element) : [greeting]));
  const title = chat.title || t("untitled");
  document.title = chat.title ? `${title} · llmx` : "llmx";
  find("#title").textContent = title;
  state();
}

function open(one) {
  chat = one;
  try { sessionStorage.setItem("llmx.open", chat.id); } catch (error) { console.info("not kept:", error.message); }
  const last = chat.path().findLast((node) => node.model)?.model;
  if (offered.some(({ id }) => id === last)) select.value = last;
  show();
  list();
  end.go();
}

const isPlain = () => offered.find(({ id }) => id === select.value)?.plain ?? false;

function state() {
  const busy = Boolean(runOf(chat)), send = find("#send");
  send.replaceChildren(icon(busy ? "stop" : "send"));
  send.title = t(busy ? "stop" : "send");
  send.setAttribute("aria-label", send.title);
  send.disabled = !busy && (!input.value.trim() || !select.value);
  find("#plain").hidden = !isPlain();
  find("#plain").textContent = t("plain", { model: select.value });
  input.placeholder = t(isPlain() ? "askPlain" : "ask");
  find("#hint").textContent = t(byTouch() ? "hintTouch" : "hint");
}

function saved(one) {
  notice(one.save() ? (keepsNothing() ? t("noStore") : "") : t("full"));
  list();
}

function notice(text, ...buttons) {
  find("#notice").hidden = !text;
  find("#notice").replaceChildren(text, ...buttons);
}

// --- answers -------------------------------------------------------------------------------------------------------

function answer(parent) {
  const node = chat.add(parent, "assistant", { model: select.value, plain: isPlain() });
  ask(node);
}

function ask(node) {
  const run = new Run(chat, node, chosen(), changed);
  live.set(chat.id, chat);
  run.start();
  saved(chat);
  show();
  end.go();
  find("#said").textContent = t("answering");
}

const due = new Map(); // runs that have something new to show
let frame = 0, rest_ms = 0;

// Not for each token: once a frame, and after a costly frame less often.
function changed(run, finished) {
  if (finished) { finish(run); return; }
  due.set(run.chat.id, run);
  frame ||= requestAnimationFrame(draw);
}

function draw(now) {
  frame = 0;
  if (now < rest_ms) { frame = requestAnimationFrame(draw); return; }
  const begun = performance.now();
  for (const run of due.values()) refresh(run, false);
  due.clear();
  rest_ms = begun + 4 * (performance.now() - begun);
}

function refresh(run, finished) {
  if (run.chat !== chat) return;
  views.get(run.node.id)?.update(finished);
  end.follow();
}

function finish(run) {
  due.delete(run.chat.id);
  live.delete(run.chat.id);
  refresh(run, true);
  if (!run.chat.gone) saved(run.chat);
  if (run.chat !== chat) return;
  state();
  find("#said").textContent = views.get(run.node.id)?.body.textContent.slice(0, 4000) ?? "";
  if (run.node.error?.status === 401) askKey(() => actions.retry(run.node));
}

const actions = {
  copy: (text) => copied(text),
  regenerate: (node) => { if (!runOf(chat)) answer(node.parent); },
  retry(node) {
    if (runOf(chat)) return;
    if (node.text) answer(node.parent); // what came before the trouble stays
    else ask(Object.assign(node, { model: select.value, plain: isPlain() }));
  },
  retryNow: () => runOf(chat)?.retryNow(),
  goOn: (node) => { if (!runOf(chat)) answer(node.id); },
  turn(node, by) {
    if (runOf(chat)) return;
    const other = chat.choose(node, by);
    chat.write();
    show();
    const view = views.get(other.id).element;
    (view.querySelector(`.${by < 0 ? "before" : "after"}:enabled`) ?? view.querySelector(".turns button:enabled"))?.focus();
    view.scrollIntoView({ block: "nearest" });
  },
  edited(node, text) {
    if (runOf(chat)) return;
    answer(chat.add(node.parent, "user", { text }).id);
  },
};

async function copied(text, button = null) {
  let told = t("copied");
  try { await copy(text); } catch (error) { told = t("notCopied"); console.info(error.message); }
  find("#said").textContent = told;
  if (!button) { toast(told); return; }
  button.textContent = told;
  setTimeout(() => { button.textContent = t("copy"); }, 1500);
}

messages.addEventListener("click", (event) => {
  const button = event.target.closest(".copy-code");
  if (button) copied(button.closest(".code").querySelector("code").textContent, button);
});

// --- the composer --------------------------------------------------------------------------------------------------

function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  state();
}

function send() {
  if (runOf(chat) || !input.value.trim() || !select.value) return;
  const text = isPlain() ? input.value : input.value.trimEnd(); // to plain text a last blank means something
  const node = chat.add(chat.path().at(-1)?.id ?? "root", "user", { text });
  input.value = "";
  fit();
  answer(node.id);
}

find("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const run = runOf(chat);
  if (run) run.stop(); else send();
});
input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (!sends(event)) return;
  event.preventDefault();
  send();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
  if (document.body.classList.contains("side")) side(false); else runOf(chat)?.stop();
});

// --- the list of chats ---------------------------------------------------------------------------------------------

function list() {
  find("#chats").replaceChildren(...allChats().map(({ id, title }) => {
    const name = title || t("untitled");
    const pick = make("button", { type: "button", class: "pick", title: name, "aria-current": id === chat.id ? "true" : null,
      onclick: () => { const one = live.get(id) ?? chatOf(id); if (one) open(one); side(false); } }, name);
    return make("li", { class: live.has(id) ? "live" : null }, pick, iconButton("bin", t("delete", { title: name }), () => remove(id), "bin"));
  }));
}

function remove(id) {
  const one = id === chat.id ? chat : live.get(id) ?? chatOf(id);
  if (!one) { list(); return; }
  one.gone = true;
  runOf(one)?.stop();
  one.remove();
  if (id === chat.id) open(Chat.fresh()); else list();
  toast(t("deleted", { title: one.title || t("untitled") }), () => {
    delete one.gone;
    one.write();
    open(one);
  });
  find("#new-chat").focus();
}

let toasting = 0;
function toast(text, undo = null) {
  const box = find("#toast");
  clearTimeout(toasting);
  box.firstElementChild.textContent = text;
  box.lastElementChild.hidden = !undo;
  box.lastElementChild.onclick = () => { box.hidden = true; undo(); };
  box.hidden = false;
  toasting = setTimeout(() => { box.hidden = true; }, undo ? 10_000 : 1500);
}

function side(shown) {
  document.body.classList.toggle("side", shown);
  find("#veil").hidden = !shown;
  find("#desk").inert = shown;
  find("#side-open").setAttribute("aria-expanded", String(shown));
  if (shown) find("#new-chat").focus();
}

const begin = () => { open(Chat.fresh()); side(false); input.focus(); };
find("#new-chat").addEventListener("click", begin);
find("#new-short").addEventListener("click", begin);
find("#side-open").addEventListener("click", () => side(true));
for (const selector of ["#side-close", "#veil"]) find(selector).addEventListener("click", () => side(false));
addEventListener("storage", list); // another tab of this page

// --- models and the key --------------------------------------------------------------------------------------------

async function connect() {
  try {
    offered = (await models()).map((one) => ({ id: one.id, plain: one.chat === false }));
    notice(offered.length ? "" : t("noModel"));
  } catch (error) {
    if (error.status === 401) { askKey(connect); return; }
    if (error.status === undefined) throw error;
    notice(reason(error), make("button", { type: "button", onclick: connect }, t("again")));
  }
  const wanted = [chat.path().findLast((node) => node.model)?.model, kept("model"), offered[0]?.id];
  select.replaceChildren(...offered.map(({ id, plain }) => make("option", { value: id }, plain ? `${id} (${t("plainText")})` : id)));
  select.value = wanted.find((id) => offered.some((one) => one.id === id)) ?? "";
  show();
}

let afterKey = null, keyTried = false;
function askKey(then) {
  afterKey = then;
  find("#key-title").textContent = t(keyTried ? "keyWrong" : "keyNeeded");
  if (!find("#key").open) find("#key").showModal();
}
find("#key form").addEventListener("submit", async (event) => {
  event.preventDefault();
  setKey(event.target.elements.key.value);
  event.target.reset();
  keyTried = true;
  find("#key").close();
  await connect();
  if (afterKey !== connect && offered.length) afterKey();
});
find("#key-cancel").addEventListener("click", () => {
  find("#key").close();
  notice(t("keyNeeded"), make("button", { type: "button", onclick: () => askKey(afterKey) }, t("enter")));
});

select.addEventListener("change", () => { keep("model", select.value); show(); input.focus(); });
find("#settings-open").addEventListener("click", openSettings);
find("#language").addEventListener("click", () => { otherLanguage(); nameTheme(); show(); list(); });
addEventListener("pagehide", () => { for (const one of live.values()) one.write(); });

for (const [id, name] of [["side-open", "menu"], ["side-close", "close"], ["new-short", "plus"], ["settings-open", "knobs"], ["to-end", "down"]]) {
  find(`#${id}`).append(icon(name));
}
find("#new-chat").prepend(icon("plus"));
find("#settings .head button").append(icon("close"));
translate();
nameTheme();
let before = null;
try { before = sessionStorage.getItem("llmx.open"); } catch (error) { console.info("not kept:", error.message); }
open((before && chatOf(before)) || chat);
if (keepsNothing()) notice(t("noStore"));
await connect();
fit();
if (byTouch()) input.enterKeyHint = "enter"; else input.focus();
