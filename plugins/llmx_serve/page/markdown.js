// Markdown in blocks: headings, paragraphs, code, quotes, lists, tables, rules. Built as elements, never as markup.
import { coloured } from "./colour.js";
import { make } from "./dom.js";
import { inline } from "./inline.js";

const NESTED_MOST = 12; // quotes and lists within one another
const FENCE = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}>/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?: +|$)/;

const blank = (line) => !line.trim();
const indent = (line) => line.length - line.trimStart().length;
const begins = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

/** Return the blocks of these lines: their kind, `from` and `to` in lines, and `sure`, the line that settled their kind. */
export function blocksOf(lines, depth = 0) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (blank(lines[at])) { at += 1; continue; }
    const block = { from: at, sure: at, ...blockAt(lines, at, depth) };
    blocks.push(block);
    at = block.to;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", to: at + 1, level: heading[1].length, text: (heading[2] ?? "").replace(/\s#+\s*$/, "") };
  if (RULE.test(line)) return { kind: "rule", to: at + 1 };
  if (depth < NESTED_MOST && QUOTE.test(line)) return quoted(lines, at, depth);
  if (depth < NESTED_MOST && ITEM.test(line)) return listed(lines, at, depth);
  if (tableAt(lines, at)) return { ...tabled(lines, at), sure: at + 1 };
  let to = at + 1;
  while (to < lines.length && !blank(lines[to]) && !(begins(lines[to]) && !lateNumber(lines[to])) && !tableAt(lines, to)) to += 1;
  return { kind: "text", to, text: lines.slice(at, to).map((each) => each.trim()).join("\n") };
}

// A number at the beginning of a line within a paragraph is a list only if it is 1: "in\n2024. Then".
const lateNumber = (line) => /^ {0,3}\d/.test(line) && ITEM.test(line) && !/^ {0,3}1[.)]/.test(line);

function fenced(lines, at, [, mark, about]) {
  const off = indent(lines[at]), language = about.trim().split(/\s/)[0];
  const end = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}\\s*$`), ends = (line) => end.test(line);
  let to = at + 1;
  while (to < lines.length && !ends(lines[to])) to += 1;
  const inner = lines.slice(at + 1, to).map((line) => line.slice(Math.min(off, indent(line))));
  return { kind: "code", to: to + 1, language, text: inner.join("\n"), open: to >= lines.length };
}

function quoted(lines, at, depth) {
  let to = at + 1;
  while (to < lines.length && !blank(lines[to]) && (QUOTE.test(lines[to]) || !begins(lines[to]))) to += 1;
  const inner = lines.slice(at, to).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return { kind: "quote", to, blocks: blocksOf(inner, depth + 1) };
}

function listed(lines, at, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const items = [];
  let to = at, loose = false;
  while (to < lines.length) {
    const mark = ITEM.exec(lines[to]);
    if (!mark || /\d/.test(mark[2]) !== ordered || RULE.test(lines[to])) break;
    const end = itemEnd(lines, to, mark);
    items.push(blocksOf(unindented(lines.slice(to, end), mark), depth + 1));
    to = end;
    let next = to;
    while (next < lines.length && blank(lines[next])) next += 1;
    if (next === to) continue;
    if (!ITEM.test(lines[next] ?? "")) break;
    loose = true;
    to = next;
  }
  return { kind: "list", to, ordered, loose, start: parseInt(ITEM.exec(lines[at])[2], 10), items };
}

function itemEnd(lines, from, mark) {
  const least = mark[1].length + 2; // leaner than the rules: models often indent by two after "1."
  let at = from + 1, fence = null, text = true;
  while (at < lines.length) {
    let next = at;
    while (next < lines.length && blank(lines[next])) next += 1;
    if (next === lines.length) break;
    const within = indent(lines[next]) >= least;
    if (!within && (next > at || fence || !text || begins(lines[next]))) break;
    if (within) {
      const found = /^\s*(`{3,}|~{3,})/.exec(lines[next]);
      if (found) fence = fence === null ? found[1] : found[1].startsWith(fence) ? null : fence;
      text = !found;
    }
    at = next + 1;
  }
  return at;
}

function unindented(lines, mark) {
  const width = Math.min(mark[0].length, mark[1].length + mark[2].length + 4);
  const [first, ...rest] = lines;
  const text = first.slice(mark[0].length).replace(/^\[([ xX])\](?= )/, (_, done) => (done === " " ? "☐" : "☑"));
  return [text, ...rest.map((line) => line.slice(Math.min(width, indent(line))))];
}

const cellsOf = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

function tableAt(lines, at) {
  if (!lines[at].includes("|") || !/^[\s|:-]+$/.test(lines[at + 1] ?? "") || !lines[at + 1].includes("|")) return false;
  const marks = cellsOf(lines[at + 1]);
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cellsOf(lines[at]).length;
}

function tabled(lines, at) {
  let to = at + 2;
  while (to < lines.length && !blank(lines[to]) && lines[to].includes("|") && !FENCE.test(lines[to])) to += 1;
  const sides = cellsOf(lines[at + 1]).map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "middle" : "right") : ""));
  return { kind: "table", to, sides, head: cellsOf(lines[at]), rows: lines.slice(at + 2, to).map(cellsOf) };
}

/** Return the element of a block. */
export function element(block) {
  if (block.kind === "heading") return make(`h${Math.min(6, block.level + 2)}`, { class: `h${block.level}` }, inline(block.text));
  if (block.kind === "rule") return make("hr");
  if (block.kind === "code") return codeBlock(block);
  if (block.kind === "quote") return make("blockquote", {}, block.blocks.map(element));
  if (block.kind === "list") return list(block);
  if (block.kind === "table") return table(block);
  return make("p", {}, inline(block.text));
}

export function codeBlock({ language, text, open }) {
  const code = make("code", {}, open ? [text] : coloured(text, language));
  const bar = make("div", { class: "bar" }, make("span", {}, language || ""), make("button", { type: "button", class: "copy-code" }));
  return make("div", { class: "code" }, bar, make("pre", { tabindex: 0 }, code));
}

function list({ ordered, start, loose, items }) {
  const attributes = { start: ordered && start !== 1 ? start : null, class: loose ? "loose" : null };
  const inner = (blocks) => {
    const apart = loose || blocks.filter((block) => block.kind === "text").length > 1;
    return blocks.flatMap((block) => (block.kind === "text" && !apart ? inline(block.text) : [element(block)]));
  };
  return make(ordered ? "ol" : "ul", attributes, items.map((blocks) => make("li", {}, inner(blocks))));
}

function table({ sides, head, rows }) {
  const row = (cells, name) => make("tr", {}, sides.map((side, i) => make(name, { class: side || null }, inline(cells[i] ?? ""))));
  return make("div", { class: "scroll", tabindex: 0 },
    make("table", {}, make("thead", {}, row(head, "th")), make("tbody", {}, rows.map((cells) => row(cells, "td")))));
}
