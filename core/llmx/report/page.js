(() => {
  "use strict";
  // Draws into the same squares of 1000 units as the page came with; without this script the page stays as it is.
  const data = JSON.parse(document.getElementById("data").textContent);
  const view = { axis: "x", log: false, crop: false, smooth: 0, runs: new Set(), kinds: new Set() };
  const SIDE = 1000, WIDEST = 0.2, KEPT = 0.95, SVG = "http://www.w3.org/2000/svg";

  const columns = (c) => c && { x: c.x, t: typeof c.t === "number" ? c.x.map((step) => step * c.t) : c.t, y: c.y };
  const charts = data.charts.map((chart, number) => {
    const figure = document.querySelector(`[data-chart="${number}"]`);
    const lines = chart.lines.map((line, i) => ({
      ...line, points: columns(line), means: columns(line.means), group: figure.querySelector(`[data-line="${i}"]`),
    }));
    const find = (selector) => figure.querySelector(selector);
    return { ...chart, lines, figure, plot: find(".plot"), tip: find(".tip"), hair: find(".hair"), find };
  });

  // --- numbers -----------------------------------------------------------------------------------------------------

  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e15 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
    for (const [limit, unit, suffix] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
      if (size >= limit) return Number((value / unit).toPrecision(4)) + suffix;
    }
    return String(Number(value.toPrecision(5)));
  }

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const size = 10 ** Math.floor(Math.log10(rough));
    const step = size * [1, 2, 2.5, 5, 10].find((factor) => size * factor >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) found.push(step * i);
    return found;
  }

  function logTicks(low, high) { // low and high are powers of ten; too few decades are divided further
    for (const parts of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]]) {
      const found = [];
      for (let power = Math.floor(low); power <= high; power++) {
        for (const part of parts) {
          const at = Math.log10(part) + power;
          if (at >= low && at <= high) found.push(at);
        }
      }
      if (found.length >= 3) return found.length > 8 ? found.filter((_, i) => i % Math.ceil(found.length / 8) === 0) : found;
    }
    return ticks(low, high, 4);
  }

  // An exponential mean over steps or tokens, not over points: runs with other intervals are smoothed alike.
  function smoothed(points, reach) {
    const xs = points[view.axis];
    let sum = 0, weight = 0, before = xs[0];
    return points.y.map((y, i) => {
      const keep = Math.exp(-(xs[i] - before) / reach);
      before = xs[i];
      sum *= keep;
      weight *= keep;
      if (y === null) return null;
      sum += y;
      weight += 1;
      return sum / weight;
    });
  }

  function nearest(values, wanted) {
    let low = 0, high = values.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < wanted) low = middle + 1; else high = middle;
    }
    return low > 0 && wanted - values[low - 1] < values[low] - wanted ? low - 1 : low;
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  const shown = (line) => !view.runs.has(line.run) && !view.kinds.has(line.label);
  const farthest = () => Math.max(1, ...charts.flatMap((chart) => chart.lines.filter((line) => !view.runs.has(line.run))
    .map((line) => line.points[view.axis].at(-1))));
  let last = 1;

  // The lowest and highest value; without outliers each line's own highest twentieth does not count.
  function ends(lines, height) {
    let low = Infinity, high = -Infinity;
    for (const line of lines) {
      const from = view.crop ? line.means || line.points : line.points;
      const values = from.y.map(height).filter((y) => y !== null).sort((a, b) => a - b);
      if (!values.length) continue;
      low = Math.min(low, values[0]);
      high = Math.max(high, values[view.crop ? Math.floor((values.length - 1) * KEPT) : values.length - 1]);
    }
    return low > high ? [0, 1] : [low, high];
  }

  function draw(chart) {
    const visible = chart.lines.filter(shown);
    const log = view.log && chart.log;
    const reach = (view.smooth / 100) ** 2 * WIDEST * last;
    const height = (y) => (y === null || (log && y <= 0) ? null : log ? Math.log10(y) : y);
    let [low, high] = ends(visible, height);
    if (chart.zero && !log) { low = Math.min(low, 0); high = Math.max(high, 0); }
    const room = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
    if (!(chart.zero && low === 0)) low -= room;
    high += room;
    const across = (x) => (SIDE * x) / last;
    const down = (y) => (SIDE * (high - height(y))) / (high - low);

    for (const line of chart.lines) {
      line.group.classList.toggle("gone", !shown(line));
      const smooth = reach > 0 && chart.smooth && !line.sparse;
      const base = line.means || line.points;
      line.smooth = smooth ? { ...base, y: smoothed(base, reach) } : null;
      const path = (points, dots) => pathOf(points[view.axis].map(across), points.y.map((y) => (height(y) === null ? null : down(y))), dots);
      const [faint, main, dots] = line.group.children;
      faint.setAttribute("d", smooth || line.means ? path(line.points, false) : "");
      main.setAttribute("d", path(line.smooth || base, false));
      dots.setAttribute("d", line.dots ? path(line.points, true) : "");
    }
    chart.plot.classList.toggle("crop", view.crop);
    const rows = log ? logTicks(low, high) : ticks(low, high, 5);
    const at = (tick) => (100 * (high - tick)) / (high - low);
    chart.find(".grid").setAttribute("d", rows.map((tick) => `M0 ${(at(tick) * 10).toFixed(1)}H${SIDE}`).join(""));
    label(chart.find(".y"), rows.map((tick) => [100, at(tick), short(log ? 10 ** tick : tick)]));
    label(chart.find(".x"), ticks(0, last, 5).map((tick) => [(100 * tick) / last, null, short(tick)]));
  }

  function pathOf(xs, ys, dots) {
    const digits = xs.length <= 500 ? 1 : 0;
    let text = "", run = 0;
    for (let i = 0; i < xs.length; i++) {
      if (ys[i] === null) { text += run === 1 ? "h0" : ""; run = 0; continue; }
      text += `${run && !dots ? "L" : "M"}${xs[i].toFixed(digits)} ${ys[i].toFixed(digits)}${dots ? "h0" : ""}`;
      run++;
    }
    return text + (run === 1 && !dots ? "h0" : "");
  }

  function label(svg, texts) {
    svg.replaceChildren(...texts.map(([x, y, words]) => {
      const text = document.createElementNS(SVG, "text");
      text.setAttribute("x", `${x.toFixed(2)}%`);
      text.setAttribute("y", y === null ? "1.1em" : `${y.toFixed(2)}%`);
      if (y !== null) text.setAttribute("dy", ".32em");
      text.textContent = words;
      return text;
    }));
  }

  function redraw() {
    last = farthest();
    charts.forEach(draw);
    const reach = (view.smooth / 100) ** 2 * WIDEST * last;
    document.getElementById("smooth-text").value = reach > 0 ? `over ${short(Number(reach.toPrecision(2)))} ${axisName()}` : "off";
    document.getElementById("axis-name").textContent = axisName();
    leave();
  }

  const axisName = () => (view.axis === "x" ? "steps" : "tokens");

  // --- reading values off ------------------------------------------------------------------------------------------

  function element(name, className, ...children) {
    const made = document.createElement(name);
    made.className = className;
    made.append(...children);
    return made;
  }

  function point(chart, share) { // share: how far to the right, 0 to 1
    const x = share * last;
    for (const each of charts) each.hair.setAttribute("d", `M${(share * SIDE).toFixed(1)} 0V${SIDE}`);
    const rows = [];
    const where = { x: new Set(), t: new Set() }; // runs that have seen equally many tokens agree on both
    for (const line of chart.lines.filter(shown)) {
      const xs = line.points[view.axis];
      if (x > xs.at(-1) + last * 0.02 || x < xs[0] - last * 0.02) continue;
      const i = nearest(xs, x), y = line.points.y[i];
      if (!line.sparse || chart.lines.every((each) => each.sparse)) for (const axis of ["x", "t"]) where[axis].add(line.points[axis][i]);
      const from = line.smooth || line.means;
      const trend = from ? from.y[nearest(from[view.axis], x)] : null;
      const extra = element("small", "", line.sparse ? `at ${short(xs[i])}` : trend === null ? "" : `mean ${short(trend)}`);
      const swatch = document.createElementNS(SVG, "svg");
      swatch.setAttribute("viewBox", "0 0 22 8");
      swatch.setAttribute("class", `swatch ${line.group.getAttribute("class").replace("line", "")}`);
      const stroke = document.createElementNS(SVG, "path");
      stroke.setAttribute("d", "M1 4H21");
      swatch.append(stroke);
      const who = [data.runs.length > 1 ? data.runs[line.run] : "", line.label].filter(Boolean).join(" ") || "value";
      rows.push(element("p", "", swatch, element("span", "who", who), element("b", "", y === null ? "not finite" : short(y)), extra));
    }
    chart.tip.hidden = rows.length === 0;
    if (!rows.length) return;
    const [step, tokens] = [where.x, where.t].map((values) => (values.size === 1 ? [...values][0] : null));
    const head = [
      step === null ? "" : `step ${step.toLocaleString("en")}`, tokens === null ? "" : `${short(tokens)} tokens`,
    ].filter(Boolean).join(", ") || (view.axis === "x" ? `about step ${Math.round(x).toLocaleString("en")}` : `about ${short(x)} tokens`);
    chart.tip.replaceChildren(element("p", "", head), ...rows);
    const width = chart.plot.clientWidth, own = chart.tip.offsetWidth, at = share * width;
    chart.tip.style.left = `${Math.max(0, Math.min(at + 14 + own > width ? at - own - 14 : at + 14, width - own))}px`;
  }

  function leave() {
    for (const chart of charts) { chart.hair.setAttribute("d", ""); chart.tip.hidden = true; }
  }

  for (const chart of charts) {
    let share = 1;
    const to = (wanted) => { share = Math.max(0, Math.min(1, wanted)); leave(); point(chart, share); };
    const move = (event) => {
      const box = chart.plot.getBoundingClientRect();
      to((event.clientX - box.left) / box.width);
    };
    chart.plot.addEventListener("pointermove", move);
    chart.plot.addEventListener("pointerdown", move);
    chart.plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
    chart.plot.addEventListener("blur", leave);
    chart.plot.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.01, ArrowRight: 0.01 }[event.key];
      if (by) { event.preventDefault(); to(share + by); }
      if (event.key === "Escape") leave();
    });
  }

  document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".plot")) leave(); });

  // --- switches ----------------------------------------------------------------------------------------------------

  function onPress(selector, act) {
    for (const button of document.querySelectorAll(selector)) button.addEventListener("click", () => { act(button); redraw(); });
  }

  const toggle = (hidden, key) => (button) => {
    if (!hidden.delete(key(button))) hidden.add(key(button));
    button.setAttribute("aria-pressed", String(!hidden.has(key(button))));
  };
  onPress("[data-run]", toggle(view.runs, (button) => Number(button.dataset.run)));
  onPress("[data-kind]", toggle(view.kinds, (button) => button.dataset.kind));
  onPress("[data-axis]", (button) => {
    view.axis = button.dataset.axis;
    for (const each of document.querySelectorAll("[data-axis]")) each.setAttribute("aria-pressed", String(each === button));
  });
  const [log, crop, smooth] = ["log", "crop", "smooth"].map((id) => document.getElementById(id));
  log.addEventListener("input", () => { view.log = log.checked; redraw(); });
  crop.addEventListener("input", () => { view.crop = crop.checked; redraw(); });
  smooth.addEventListener("input", () => { view.smooth = Number(smooth.value); redraw(); });

  log.checked = crop.checked = false; // a page that is loaded again must not keep switches that the drawing does not show
  smooth.value = 0;
  redraw();
})();
