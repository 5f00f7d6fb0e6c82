// Builds elements. Text becomes text: nothing here, nor in the other scripts, turns a string into markup.

/** Return a new element; attributes that are null or false are left out, children may be arrays. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  return fill(element, children.flat());
}

/** Put children into an element one by one: as arguments of one call, 100,000 would be too many. */
export function fill(element, children) {
  for (const child of children) if (child !== null) element.append(child);
  return element;
}

export const find = (selector) => document.querySelector(selector);

const SHAPES = { // 24 units square, drawn by strokes
  menu: "M4 7h16M4 12h16M4 17h16", plus: "M12 5v14M5 12h14", send: "M12 19V5M6 11l6-6 6 6", stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10", again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4", edit: "M5 19l1-4L16 5l3 3L9 18z",
  back: "M14 6l-6 6 6 6", next: "M10 6l6 6-6 6", bin: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13", down: "M12 5v14M6 13l6 6 6-6",
  knobs: "M4 8h8M16 8h4M4 16h4M12 16h8M12 8a2 2 0 1 0 4 0a2 2 0 1 0-4 0M8 16a2 2 0 1 0 4 0a2 2 0 1 0-4 0", close: "M6 6l12 12M18 6L6 18",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[name]);
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(path);
  return svg;
}

export function iconButton(name, label, onclick, classes = "") {
  return make("button", { type: "button", class: `icon ${classes}`, "aria-label": label, title: label, onclick }, icon(name));
}

// The clipboard proper needs a safe origin; a server on the local network without TLS is none.
export async function copy(text) {
  if (navigator.clipboard && isSecureContext) return navigator.clipboard.writeText(text);
  const field = make("textarea", { class: "unseen", readonly: true });
  const focused = document.activeElement;
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!copied) throw new Error("not copied");
}
