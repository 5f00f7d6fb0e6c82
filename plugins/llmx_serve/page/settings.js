// What the reader sets: the sampling, the system prompt, light or dark. What is empty is not sent.
import { keep, kept } from "./chats.js";
import { find } from "./dom.js";
import { number, t } from "./strings.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const form = find("#settings form");
const values = { system: "", stop: "", ...kept("settings") };

/** Return the system prompt and the fields of a request. */
export function chosen() {
  const sampling = {};
  for (const name of NUMBERS) if (typeof values[name] === "number") sampling[name] = values[name];
  const stop = values.stop.split("\n").filter((line) => line);
  if (stop.length) sampling.stop = stop;
  return { system: values.system, sampling };
}

function shown() {
  for (const field of form.elements) if (field.name) field.value = values[field.name] ?? "";
}

function taken(field) {
  const low = Number(field.min), high = Number(field.max);
  const bad = field.type === "number" && !field.checkValidity();
  field.setCustomValidity("");
  field.setAttribute("aria-invalid", String(bad));
  field.title = bad ? t("wrong", { low: number(low), high: number(high) }) : "";
  field.parentElement.dataset.wrong = field.title;
  if (bad) return;
  if (field.type !== "number") values[field.name] = field.value;
  else if (field.value === "") delete values[field.name];
  else values[field.name] = Number(field.value);
  keep("settings", values);
}

export function openSettings() {
  shown();
  for (const field of form.elements) if (field.name) taken(field);
  find("#settings").showModal();
}

form.addEventListener("input", (event) => taken(event.target));
form.noValidate = true;
form.addEventListener("submit", (event) => { event.preventDefault(); find("#settings").close(); });
find("#settings-reset").addEventListener("click", () => {
  for (const field of form.elements) if (field.name) { field.value = ""; taken(field); }
});

const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

export function nameTheme() {
  find("#theme").textContent = t(isDark() ? "light" : "dark");
  find("#theme").title = t("theme");
}

// Against the system's wish the choice is kept; back at it, the page follows the system again.
find("#theme").addEventListener("click", () => {
  const wanted = isDark() ? "light" : "dark";
  if (wanted === (system.matches ? "dark" : "light")) delete root.dataset.theme; else root.dataset.theme = wanted;
  keep("theme", root.dataset.theme ?? null);
  nameTheme();
});
system.addEventListener("change", nameTheme);
if (["light", "dark"].includes(kept("theme"))) root.dataset.theme = kept("theme");
