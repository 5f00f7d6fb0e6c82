(() => {
  "use strict";
  // Ratings by hand, blind or not. Without this script the page shows all answers as they are.
  const root = document.getElementById("comparison");
  const place = `llmx-compare:${root.dataset.id}`;
  const list = document.getElementById("questions");
  const questions = [...list.children];
  const cards = questions.flatMap((question) => [...question.querySelectorAll(".answer")]);
  const names = [...document.querySelectorAll(".figures tbody th")].map((cell) => cell.textContent.trim());
  const find = (id) => document.getElementById(id);
  const question = (card) => card.closest(".question");
  let current = null;

  // --- what is kept ------------------------------------------------------------------------------------------------

  function kept() {
    try {
      const value = JSON.parse(localStorage.getItem(place));
      if (value && typeof value.ratings === "object") return value;
    } catch (error) {
      find("unkept").hidden = error instanceof SyntaxError; // what cannot be read is begun anew
    }
    return { ratings: {}, blind: false, salt: Math.floor(Math.random() * 2 ** 32) };
  }

  function keep() {
    try {
      localStorage.setItem(place, JSON.stringify(state));
    } catch {
      find("unkept").hidden = false;
    }
  }

  const state = kept();

  // --- what is seen ------------------------------------------------------------------------------------------------

  // The order within a question hangs on its id and on this browser's salt: it stays over reloads, and tells nothing.
  function chance(text) {
    let hash = state.salt >>> 0;
    for (const character of text) {
      hash = Math.imul(hash ^ character.codePointAt(0), 2654435761) >>> 0;
      hash ^= hash >>> 15;
    }
    return hash;
  }

  function seenOrder(question) {
    const own = cards.filter((card) => card.closest(".question") === question);
    if (!state.blind) return own;
    const draw = (card) => chance(`${question.dataset.id}\n${card.dataset.model}`);
    return own.sort((a, b) => draw(a) - draw(b) || a.dataset.model - b.dataset.model);
  }

  function show() {
    document.documentElement.classList.toggle("blind", state.blind);
    find("blind").setAttribute("aria-pressed", state.blind);
    find("blind").textContent = state.blind ? "Reveal" : "Blind";
    if (state.blind) {
      find("differ").checked = false;
      if (find("order").value === "gap") find("order").value = "asked";
    }
    for (const each of questions) {
      seenOrder(each).forEach((card, at) => {
        card.parentNode.append(card);
        card.querySelector(".who").textContent = state.blind ? `Answer ${String.fromCharCode(65 + at)}` : names[card.dataset.model];
      });
    }
    choose();
    tell();
  }

  function choose() {
    const tag = find("tag") ? find("tag").value : "";
    const order = find("order").value;
    const by = {
      asked: (each) => Number(each.dataset.at),
      alike: (each) => Number(each.dataset.alike),
      gap: (each) => -Number(each.dataset.gap),
    }[order];
    const sorted = [...questions].sort((a, b) => by(a) - by(b) || a.dataset.at - b.dataset.at);
    let left = 0;
    for (const each of sorted) {
      list.append(each);
      const open = [...each.querySelectorAll("[data-key]")].some((card) => !state.ratings[card.dataset.key]);
      each.hidden = (tag !== "" && !JSON.parse(each.dataset.tags).includes(tag)) ||
        (find("differ").checked && Number(each.dataset.gap) === 0) || (find("unrated").checked && !open);
      left += !each.hidden;
    }
    find("none").hidden = left > 0;
    if (current && question(current).hidden) mark(null);
  }

  function tell() {
    const scores = names.map(() => []);
    let rated = 0, all = 0;
    for (const card of cards) {
      const score = state.ratings[card.dataset.key];
      for (const button of card.querySelectorAll("[data-score]")) {
        button.setAttribute("aria-pressed", Number(button.dataset.score) === score);
      }
      all += card.dataset.key ? 1 : 0;
      if (card.dataset.key && score) {
        rated += 1;
        scores[card.dataset.model].push(score);
      }
    }
    document.querySelector(".figures").classList.toggle("rated", rated > 0);
    find("progress").textContent = `${rated} of ${all} rated`;
    for (const cell of document.querySelectorAll("td.yours")) {
      const own = scores[cell.dataset.model];
      const small = document.createElement("small");
      small.textContent = ` of ${own.length}`;
      cell.replaceChildren(own.length ? (own.reduce((a, b) => a + b) / own.length).toFixed(2) : "–", ...(own.length ? [small] : []));
    }
  }

  // --- rating ------------------------------------------------------------------------------------------------------

  function mark(card) {
    if (current) current.classList.remove("current");
    current = card;
    if (!card) return;
    card.classList.add("current");
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  function rate(card, score) {
    if (!card || !card.dataset.key) return;
    if (score) state.ratings[card.dataset.key] = score;
    else delete state.ratings[card.dataset.key];
    keep();
    tell();
  }

  function move(step) {
    const seen = [...list.querySelectorAll(".question:not([hidden]) .answer[data-key]")];
    const at = seen.indexOf(current);
    const next = at < 0 ? (step > 0 ? 0 : seen.length - 1) : Math.min(Math.max(at + step, 0), seen.length - 1);
    if (seen.length) mark(seen[next]);
  }

  list.addEventListener("click", (event) => {
    const card = event.target.closest(".answer");
    const button = event.target.closest("[data-score]");
    if (card && card.dataset.key) mark(card);
    if (button) rate(card, button.getAttribute("aria-pressed") === "true" ? 0 : Number(button.dataset.score));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, textarea")) return;
    if (event.key >= "0" && event.key <= "5" && event.key.length === 1) {
      if (!current) return move(1); // the first key shows where it would count
      rate(current, Number(event.key));
      if (event.key !== "0") move(1);
    } else if (event.key === "ArrowRight") move(1);
    else if (event.key === "ArrowLeft") move(-1);
    else return;
    event.preventDefault();
  });

  // --- switches ----------------------------------------------------------------------------------------------------

  find("blind").addEventListener("click", () => {
    state.blind = !state.blind;
    keep();
    show();
  });
  for (const id of ["tag", "order", "differ", "unrated"]) find(id)?.addEventListener("change", choose);

  find("clear").addEventListener("click", () => {
    const count = Object.keys(state.ratings).length;
    if (!count || !confirm(`Take back ${count} ${count === 1 ? "rating" : "ratings"}?`)) return;
    state.ratings = {};
    keep();
    tell();
  });

  find("save").addEventListener("click", () => {
    const ratings = cards.filter((card) => state.ratings[card.dataset.key]).map((card) => ({
      key: card.dataset.key, question: question(card).dataset.id, model: names[card.dataset.model],
      score: state.ratings[card.dataset.key],
    }));
    const text = JSON.stringify({ format: "llmx-ratings-1", saved: new Date().toISOString(), ratings }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "ratings.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });

  show();
})();
