// Chats and what else the browser keeps. A chat is a tree: another answer, or an edited message, stands beside the first.

const PREFIX = "llmx.";
const memory = new Map(); // used where the browser refuses to keep anything
let store = null;
try {
  localStorage.getItem(PREFIX);
  store = localStorage;
} catch (error) {
  console.info("nothing can be kept:", error.message); // the page says so too: `keepsNothing`
}
export const keepsNothing = () => store === null;

const get = (key) => (store ? store.getItem(PREFIX + key) : memory.get(key) ?? null);

export function kept(key) {
  const text = get(key);
  if (text === null) return null;
  try {
    return JSON.parse(text);
  } catch {
    return null; // written by something else: as if it were not there
  }
}

/** Keep a value; returns whether there was room. */
export function keep(key, value) {
  const text = JSON.stringify(value);
  if (!store) { memory.set(key, text); return true; }
  try {
    store.setItem(PREFIX + key, text);
    return true;
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
    return false;
  }
}

const forget = (key) => (store ? store.removeItem(PREFIX + key) : memory.delete(key));
const keys = () => (store ? Object.keys(store).filter((key) => key.startsWith(PREFIX)).map((key) => key.slice(PREFIX.length)) : [...memory.keys()]);

const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 8);

export class Chat {
  constructor(data) { Object.assign(this, data); }

  static fresh() {
    const root = { id: "root", role: "root", parent: null, children: [], chosen: 0 };
    return new Chat({ id: newId(), title: "", updated: Date.now(), nodes: { root } });
  }

  /** Hang a message under another and choose it. */
  add(parent, role, fields) {
    const node = { id: newId(), role, text: "", parent, children: [], chosen: 0, ...fields };
    this.nodes[node.id] = node;
    this.nodes[parent].chosen = this.nodes[parent].children.push(node.id) - 1;
    return node;
  }

  /** Return the messages that are shown: from the root along what is chosen. */
  path() {
    const found = [];
    for (let node = this.nodes.root; node.children.length; found.push(node)) node = this.nodes[node.children[node.chosen]];
    return found;
  }

  /** Return the messages above one. */
  above(node) {
    const found = [];
    for (let at = this.nodes[node.parent]; at.parent; at = this.nodes[at.parent]) found.unshift(at);
    return found;
  }

  siblings(node) { return this.nodes[node.parent].children; }

  choose(node, by) {
    const parent = this.nodes[node.parent];
    parent.chosen = Math.min(parent.children.length - 1, Math.max(0, parent.chosen + by));
    return this.nodes[parent.children[parent.chosen]];
  }

  save() {
    this.updated = Date.now();
    this.title ||= this.path()[0]?.text.trim().replace(/\s+/g, " ").slice(0, 80) ?? "";
    return this.write();
  }

  write() { return keep(`chat.${this.id}`, this); }

  remove() { forget(`chat.${this.id}`); }
}

const sound = (data) => data?.id && data.nodes?.root && Object.values(data.nodes).every((node) => Array.isArray(node.children));

export function chatOf(id) {
  const data = kept(`chat.${id}`);
  if (!sound(data)) return null;
  for (const node of Object.values(data.nodes)) {
    if (node.state === "running") node.state = "interrupted"; // the page was closed or loaded anew meanwhile
    delete node.busy_s;
  }
  return new Chat(data);
}

/** Return id and title of every chat, the latest first. */
export function allChats() {
  const chats = keys().filter((key) => key.startsWith("chat.")).map(kept).filter(sound);
  return chats.sort((a, b) => b.updated - a.updated).map(({ id, title }) => ({ id, title }));
}
