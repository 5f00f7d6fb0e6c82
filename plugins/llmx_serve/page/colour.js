// A light colouring of code: comments, strings, numbers and key words, one pass for each family of languages.
import { make } from "./dom.js";

const LONGEST = 60_000; // characters; longer code stays plain
const C_LIKE = String.raw`\/\/.*|\/\*[^]*?(?:\*\/|$)`;
const STRINGS = String.raw`"(?:[^"\\\n]|\\[^])*"?|'(?:[^'\\\n]|\\[^])*'?`;
const QUOTED = String.raw`"(?:[^"\\\n]|\\[^])*"?`;

const FAMILIES = [
  ["python py python3", String.raw`#.*`, String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|` + STRINGS,
    "and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match None nonlocal not or pass raise return self True False try while with yield"],
  ["javascript js typescript ts jsx tsx mjs", C_LIKE, "`(?:[^`\\\\]|\\\\[^])*`?|" + STRINGS,
    "async await break case catch class const continue default delete do else enum export extends false finally for from function if implements import in instanceof interface let new null of return static super switch this throw true try type typeof undefined var void while yield"],
  ["c cpp c++ h java csharp cs kotlin swift go rust rs scala php dart", C_LIKE, QUOTED + String.raw`|'(?:[^'\\\n]|\\.){1,8}'`,
    "as async auto await bool break case catch char class const continue def default defer do double else enum extends extern false final fn float for fun func go goto if impl implements import in include int interface let long loop match mod mut namespace new nil None null nullptr override package private protected pub public return self short signed sizeof static string struct super switch template this throw trait true try type typedef union unsigned use using val var virtual void volatile where while"],
  ["bash sh shell zsh console", String.raw`(?<![^\s])#.*`, String.raw`"(?:[^"\\]|\\[^])*"?|'[^']*'?`,
    "case cd do done echo elif else esac exit export fi for function if in local return set source then until while sudo pip python"],
  ["toml yaml yml ini ruby rb r make makefile dockerfile", String.raw`#.*`, STRINGS,
    "true false null begin class def do else elsif end for function if in module next nil require return self then unless when while yield FROM RUN COPY CMD"],
  ["json json5 jsonc", C_LIKE, QUOTED, "true false null"],
  ["sql sqlite postgresql mysql", String.raw`--.*|\/\*[^]*?(?:\*\/|$)`, STRINGS,
    "add all alter and as asc begin between by case commit create cross database default delete desc distinct drop else end exists foreign from full group having if in index inner insert into is join key left like limit not null offset on or order outer primary references right select set table then union unique update values view when where with"],
  ["html xml svg vue", String.raw`<!--[^]*?(?:-->|$)`, QUOTED, ""],
  ["css scss less", String.raw`\/\*[^]*?(?:\*\/|$)`, STRINGS, "important media supports import keyframes"],
  ["lua haskell hs ada", String.raw`--.*`, STRINGS,
    "and break case class data do else elseif end false for function if import in instance let local module nil not of or repeat return then true type until where while"],
];

const made = new Map();
for (const [names, comment, string, words] of FAMILIES) {
  const family = { comment, string, words: new Set(words.split(" ")), anyCase: names.startsWith("sql") };
  for (const name of names.split(" ")) made.set(name, family);
}

/** Return the nodes of a code's text. */
export function coloured(text, language) {
  const family = made.get((language ?? "").toLowerCase());
  if (!family || text.length > LONGEST) return [text];
  family.pattern ??= new RegExp(String.raw`(${family.comment})|(${family.string})|(\b\d[\w.]*)|([\p{L}_][\p{L}\p{N}_]*)`, "gu");
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(family.pattern)) {
    const [whole, comment, string, number, word] = found;
    const known = word && family.words.has(family.anyCase ? word.toLowerCase() : word);
    const kind = comment ? "comment" : string ? "string" : number ? "number" : known ? "key" : null;
    if (!kind) continue;
    if (found.index > at) nodes.push(text.slice(at, found.index));
    nodes.push(make("span", { class: kind }, whole));
    at = found.index + whole.length;
  }
  if (at < text.length || !nodes.length) nodes.push(text.slice(at));
  return nodes;
}
