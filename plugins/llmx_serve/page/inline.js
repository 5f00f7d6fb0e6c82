// Markdown within a line: code, emphasis, links, addresses, formulas. Every step is linear in the text's length.
import { make } from "./dom.js";

const NESTED_MOST = 16; // elements within one another; deeper marks stay text
const SPECIAL = /[\\`*_~[\]!<$\n]|https?:\/\//g;
const TARGET = /\(\s{0,9}(<[^<>\n]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s{1,9}(?:"[^"\n]*"|'[^'\n]*'))?\s{0,9}\)/y;
const BRACKETED = /<(https?:\/\/[^\s<>]+|mailto:[^\s<>]+|[\w.+-]+@[\w.-]+)>/y;
const BARE = /https?:\/\/[^\s<>"'`*|\\，。；：！？、（）《》「」“”【】]+/y;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const TAGS = { "*": ["em", "strong"], "_": ["em", "strong"], "~": [null, "del"] };

export function safeAddress(text) {
  if (!URL.canParse(text)) return null;
  const url = new URL(text);
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

const link = (address, children) =>
  make("a", { href: address, title: address, rel: "noopener noreferrer", target: "_blank" }, children);

export function inline(text) {
  const items = []; // { node, depth } and { mark, count, opens, closes }
  const brackets = []; // places in `items` where a link may begin
  const fences = closings(text);
  let at = 0;

  const put = (node, depth = 0) => items.push({ node, depth });
  const say = (string) => {
    const last = items.at(-1);
    if (last?.node?.nodeType === Node.TEXT_NODE) last.node.appendData(string);
    else if (string) put(document.createTextNode(string));
  };
  const raw = (name, string) => put(make(name, name === "span" ? { class: "formula" } : {}, string));

  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (!found) break;
    say(text.slice(at, found.index));
    at = found.index;
    const next = step(found[0]);
    if (next === at) { say(text[at]); at += 1; } else at = next;
  }
  say(text.slice(at));
  return emphasised(items).map((item) => item.node);

  // Returns where to go on; where it began, if the sign means nothing here.
  function step(sign) {
    if (sign === "\n") { put(make("br")); return at + 1; }
    if (sign === "\\") return escaped();
    if (sign === "`") return code();
    if (sign === "$") return text.startsWith("$$", at) ? formula("$$", "$$") : at;
    if (sign === "<") return bracketed();
    if (sign === "[") { brackets.push(items.length); items.push({ mark: "[", count: 1 }); return at + 1; }
    if (sign === "!") {
      if (text[at + 1] !== "[") return at;
      brackets.push(items.length); // a picture would come from outside: its address is shown as a link
      items.push({ mark: "![", count: 1 });
      return at + 2;
    }
    if (sign === "]") return brackets.length ? linked() : at;
    if (sign.startsWith("http")) return bare();
    return marked(sign);
  }

  function escaped() {
    if (text[at + 1] === "(") { const end = formula("\\(", "\\)"); if (end !== at) return end; }
    if (text[at + 1] === "[") { const end = formula("\\[", "\\]"); if (end !== at) return end; }
    if (text[at + 1] === "\n") return at + 1; // a line's end of its own follows
    if (!PUNCTUATION.test(text[at + 1] ?? "")) return at;
    say(text[at + 1]);
    return at + 2;
  }

  function formula(open, close) {
    const end = text.slice(at, at + 2000).indexOf(close, open.length);
    if (end < 0) return at;
    raw("span", text.slice(at, at + end + close.length));
    return at + end + close.length;
  }

  function code() {
    let count = 1;
    while (text[at + count] === "`") count += 1;
    const places = fences.get(count);
    while (places.length && places[0] <= at) places.shift();
    if (!places.length) { say("`".repeat(count)); return at + count; }
    const inner = text.slice(at + count, places[0]).replaceAll("\n", " ");
    raw("code", /^ .*[^ ].* $/.test(inner) ? inner.slice(1, -1) : inner);
    return places[0] + count;
  }

  function bracketed() {
    BRACKETED.lastIndex = at;
    const found = BRACKETED.exec(text);
    const address = found && safeAddress(found[1].includes(":") ? found[1] : `mailto:${found[1]}`);
    if (!address) return at;
    put(link(address, [found[1]]));
    return at + found[0].length;
  }

  function bare() {
    BARE.lastIndex = at;
    let found = BARE.exec(text)?.[0] ?? "";
    while (".,;:!?])}_~".includes(found.at(-1) ?? "x")) found = found.slice(0, -1);
    const address = found && safeAddress(found);
    if (!address || WORD.test(text[at - 1] ?? "")) { say("http"); return at + 4; }
    put(link(address, [found]));
    return at + found.length;
  }

  function linked() {
    const from = brackets.pop();
    TARGET.lastIndex = at + 1;
    const found = TARGET.exec(text);
    const address = found && safeAddress(found[1].replace(/^<|>$/g, ""));
    if (!address) return at;
    const inner = emphasised(items.splice(from).slice(1));
    put(link(address, inner.length ? inner.map((item) => item.node) : [address]), 1 + deepest(inner));
    brackets.length = 0; // no link within a link
    return at + 1 + found[0].length;
  }

  function marked(sign) {
    let count = 1;
    while (text[at + count] === sign) count += 1;
    const before = text[at - 1] ?? " ", after = text[at + count] ?? " ";
    const inWord = sign === "_" && WORD.test(before) && WORD.test(after);
    items.push({ mark: sign, count, opens: /\S/.test(after) && !inWord, closes: /\S/.test(before) && !inWord });
    return at + count;
  }
}

// Where runs of so many backticks stand: a code span ends at the next run as long as its own.
function closings(text) {
  const places = new Map();
  for (const run of text.matchAll(/`+/g)) {
    if (!places.has(run[0].length)) places.set(run[0].length, []);
    places.get(run[0].length).push(run.index);
  }
  return places;
}

const deepest = (items) => items.reduce((most, item) => Math.max(most, item.depth ?? 0), 0);

// Marks that found no partner become text again, one with the text beside them.
function settled(items) {
  const found = [];
  for (const item of items) {
    const text = item.node ? (item.node.nodeType === Node.TEXT_NODE ? item.node.data : null) : item.mark.repeat(item.count);
    const last = found.at(-1)?.node;
    if (text === null) found.push(item);
    else if (last?.nodeType === Node.TEXT_NODE) last.appendData(text);
    else found.push({ node: document.createTextNode(text), depth: 0 });
  }
  return found;
}

function emphasised(items) {
  const done = [], waiting = { "*": [], "_": [], "~": [] };
  for (const item of items) {
    if (item.closes) {
      while (item.count > 0 && closed(item, done, waiting)) { /* a run of marks may close several */ }
    }
    if (item.opens && item.count > 0) waiting[item.mark].push(done.length);
    if (item.node || item.count > 0) done.push(item);
  }
  return settled(done);
}

function closed(item, done, waiting) {
  const from = waiting[item.mark].at(-1);
  if (from === undefined) return false;
  const opener = done[from];
  const size = Math.min(opener.count, item.count, 2);
  const tag = TAGS[item.mark][size - 1];
  if (!tag || done.length === from + 1) { waiting[item.mark].pop(); return false; }
  const depth = 1 + deepest(done.slice(from + 1));
  if (depth > NESTED_MOST) { // as it would be for all that began still earlier
    for (const mark of Object.keys(waiting)) waiting[mark] = waiting[mark].filter((place) => place > from);
    return false;
  }
  const inner = settled(done.slice(from + 1));
  done.length = from + 1;
  opener.count -= size;
  item.count -= size;
  if (opener.count === 0) done.pop();
  for (const places of Object.values(waiting)) while (places.length && places.at(-1) >= done.length) places.pop();
  done.push({ node: make(tag, {}, inner.map((one) => one.node)), depth });
  return true;
}
