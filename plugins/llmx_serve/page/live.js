// Shows a text that grows: blocks that are complete are built once, only the last is built again.
import { fill } from "./dom.js";
import { blocksOf, element } from "./markdown.js";

export class LiveMarkdown {
  #root; #text = ""; #from = 0; #tail = []; #open = null;

  constructor(root) { this.#root = root; }

  update(text, finished) {
    if (!text.startsWith(this.#text)) { this.#root.replaceChildren(); this.#from = 0; this.#tail = []; this.#open = null; }
    this.#text = text;
    const lines = text.slice(this.#from).split("\n");
    const blocks = blocksOf(lines);
    if (!finished && this.#grown(blocks)) return;
    for (const node of this.#tail) node.remove();
    // The line that is still being written may yet turn into something else: what it ends is not settled.
    let settled = 0;
    while (settled < blocks.length - 1 && blocks[settled + 1].sure < lines.length - 1) settled += 1;
    const nodes = blocks.map((block) => element(finished ? { ...block, open: false } : block));
    fill(this.#root, nodes);
    this.#tail = nodes.slice(settled);
    const [block] = blocks.slice(settled);
    if (block) this.#from += lines.slice(0, block.from).reduce((sum, line) => sum + line.length + 1, 0);
    this.#open = !finished && block?.open ? { block, text: this.#tail[0].querySelector("code").firstChild } : null;
  }

  // Code that is still open only gets text added, so that a long one costs no more than a short one.
  #grown(blocks) {
    if (!this.#open?.text || blocks.length !== 1 || !blocks[0].open || blocks[0].language !== this.#open.block.language) return false;
    const { text } = this.#open, now = blocks[0].text;
    if (!now.startsWith(text.data)) return false;
    text.appendData(now.slice(text.data.length));
    return true;
  }
}
