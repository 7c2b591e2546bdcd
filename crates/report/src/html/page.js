"use strict";
// Draws the plots from the data in the page, sorts and explains the tables. Without this script all words and tables read the same.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
const css = name => getComputedStyle(root).getPropertyValue(name).trim();
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// Light and dark: the system's, until the button says otherwise. Printing is always light.
const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
const applyTheme = () => {
  root.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
  redraw();
};
dark.addEventListener("change", applyTheme);
$("#theme").addEventListener("click", () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; applyTheme(); });
addEventListener("beforeprint", () => { root.dataset.theme = "light"; redraw(); });
addEventListener("afterprint", applyTheme);

// Okabe and Ito's colours, which are told apart with any kind of colour vision; every line has its own dash too.
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#3b9bd6", "#5b5b5b", "#7b3fa0"];
const DARK = ["#56b4e9", "#ff8c42", "#2ec99a", "#e79cc4", "#f0e442", "#9ad0f5", "#c8c8c8", "#c792ea"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 3", "12 3", "6 2 1 2 1 2"];
const palette = () => (root.dataset.theme === "dark" ? DARK : LIGHT);
const colourOf = (domain, name) => palette()[Math.max(0, domain.indexOf(name)) % 8];
const dashOf = (domain, name) => DASHES[Math.max(0, domain.indexOf(name)) % 8];
const number = (x, digits = 2) => (x == null ? "" : x.toFixed(digits).replace("-", "−"));
const short = x => (x >= 1e6 ? +(x / 1e6).toPrecision(3) + " M" : x >= 1e3 ? +(x / 1e3).toPrecision(3) + " k" : String(+x.toPrecision(3)));

const legendSvg = (domain, name) => {
  const svg = d3.create("svg").attr("width", 26).attr("height", 10);
  svg.append("line").attr("x1", 0).attr("x2", 26).attr("y1", 5).attr("y2", 5).attr("stroke", colourOf(domain, name)).attr("stroke-width", 2.5).attr("stroke-dasharray", dashOf(domain, name));
  return svg.node();
};
const legend = (domain, names) => {
  const element = make("div", { className: "legend" });
  for (const name of names) element.append(make("span", {}, legendSvg(domain, name), name));
  return element;
};
const common = width => ({ width, style: { fontFamily: "inherit", fontSize: "12px", background: "transparent", color: "inherit" } });

// Each plot: what it shows (rows, for its table and its file) and how it is drawn at a width.
const plots = {
  criticality: {
    rows: () => data.answer.filter(a => a.cell != null).map(a => { const c = data.cells[a.cell]; return { block: a.block, substitute: c.substitute, init: c.init, scheme: c.scheme, costs: c.criticality, low: c.low, high: c.high, accuracy: c.accuracy }; }),
    // The page shows it as a drawing of its own; this is for the file.
    draw(rows, width) {
      return Plot.plot({ ...common(width), height: 60 + 36 * rows.length, marginLeft: 90, x: { label: "costs, percentage points of test accuracy →", grid: true }, y: { domain: data.blocks, label: null },
        marks: [Plot.rectX([0], { x1: -data.margin, x2: data.margin, fill: css("--band"), insetTop: 0 }), Plot.ruleX([0], { stroke: css("--soft") }), Plot.ruleY(rows, { y: "block", x1: "low", x2: "high", strokeWidth: 2 }), Plot.dot(rows, { y: "block", x: "costs", r: 6, fill: css("--no"), stroke: "currentColor" })] });
    },
  },
  matrix: { rows: () => data.cells },
  classes: { rows: figure => tableRows($("table", figure)) },
  curves: {
    rows(figure) {
      const [panels, init] = [$("[name=panels]", figure).value, $("[name=init]", figure).value];
      return data.curves.filter(c => c.role === "parent-continued" || (c.role === "child" && c.init === init)).flatMap(c => c.points.map(([examples, mean, low, high]) => ({ panels, role: c.role, block: c.block, substitute: c.substitute, init: c.init, scheme: c.scheme, trials: c.trials, examples, mean, low, high })));
    },
    prepare(figure) {
      const inits = [...new Set(data.curves.filter(c => c.role === "child").map(c => c.init))];
      fill($("[name=init]", figure), inits, data.headline?.init);
    },
    draw(rows, width) {
      if (!rows.length) return null;
      const [panel, line] = rows[0].panels === "block" ? ["block", "scheme"] : ["scheme", "block"];
      const children = rows.filter(row => row.role === "child");
      const panels = (panel === "block" ? data.blocks : data.schemes).filter(name => children.some(row => row[panel] === name));
      const lines = (line === "block" ? data.blocks : data.schemes).filter(name => children.some(row => row[line] === name));
      const domain = line === "block" ? data.blocks : data.schemes;
      // A run that has just begun has no child yet.
      if (!panels.length) return null;
      // As many columns as fit, then as few as give the same number of rows: five panels are three and two, not four and one.
      const most = Math.max(1, Math.min(panels.length, Math.floor(width / 270)));
      const columns = Math.ceil(panels.length / Math.ceil(panels.length / most));
      const at = name => panels.indexOf(name);
      const fx = row => at(row[panel]) % columns, fy = row => Math.floor(at(row[panel]) / columns);
      // The parent trained on belongs to a scheme: to its panel, or to every panel where lines are schemes (the answer's scheme alone).
      const continued = rows.filter(row => row.role === "parent-continued").flatMap(row => panel === "scheme" ? (at(row.scheme) < 0 ? [] : [{ ...row }]) : row.scheme === data.headline?.scheme ? panels.map(block => ({ ...row, block })) : []);
      const heights = Math.ceil(panels.length / columns);
      const parent = data.parent?.validation;
      const low = d3.quantile(children.map(row => row.mean).sort(d3.ascending), 0.12);
      const top = d3.max([...children.map(row => row.high), ...continued.map(row => row.high), parent ?? 0]);
      const key = row => [row.block, row.substitute, row.init, row.scheme].join("\u0000");
      const stroke = row => colourOf(domain, row[line]);
      const marks = [Plot.frame({ stroke: css("--line") })];
      if (parent != null) marks.push(Plot.ruleY([parent], { stroke: css("--soft"), strokeWidth: 1.5 }));
      marks.push(
        Plot.areaY(children, { fx, fy, x: "examples", y1: "low", y2: "high", z: key, fill: stroke, fillOpacity: 0.13, clip: true }),
        Plot.lineY(continued, { fx, fy, x: "examples", y: "mean", z: key, stroke: css("--soft"), strokeDasharray: "4 3", clip: true }));
      for (const name of lines) marks.push(Plot.lineY(children.filter(row => row[line] === name), { fx, fy, x: "examples", y: "mean", z: key, stroke: colourOf(domain, name), strokeWidth: 2, strokeDasharray: dashOf(domain, name), clip: true }));
      marks.push(
        Plot.text(panels, { fx: name => at(name) % columns, fy: name => Math.floor(at(name) / columns), text: name => name, frameAnchor: "top-left", dy: -16, fontWeight: 600 }),
        Plot.tip(children, Plot.pointer({ fx, fy, x: "examples", y: "mean", title: row => `${row.block}, ${row.init}, ${row.scheme}\n${row.examples} images\n${number(row.mean)}% (${number(row.low)} to ${number(row.high)})\n${row.trials} trials`, maxRadius: 30 })));
      const svg = Plot.plot({ ...common(width), height: 70 + 190 * heights, marginTop: 24, marginBottom: 36, marginLeft: 36, marginRight: 24, fx: { axis: null, padding: 0.14 }, fy: { axis: null, padding: 0.16 },
        x: { label: "images trained on", ticks: 4, tickFormat: short, labelAnchor: "center", labelArrow: "none" }, y: { label: null, domain: [Math.max(0, low - 2), Math.min(100, top + 0.5)], ticks: 5, grid: true, labelAnchor: "top", labelArrow: "none" }, marks });
      const keys = legend(domain, lines);
      keys.append(make("span", { className: "unit" }, "up: validation accuracy, %"));
      return [keys, svg];
    },
  },
  survival: {
    prepare(figure) { fill($("[name=block]", figure), ["all blocks", ...new Set(data.survival.map(s => s.block).filter(Boolean))]); },
    rows(figure) {
      const block = $("[name=block]", figure).value;
      return data.survival.filter(s => (s.block ?? "all blocks") === block).flatMap(s => [...s.steps.map(step => ({ scheme: s.scheme, examples: step.at, surviving: step.surviving, at_risk: step.at_risk, end: false, trials: s.trials, recovered: s.recovered })), { scheme: s.scheme, examples: s.until, surviving: s.steps.at(-1).surviving, at_risk: s.trials - s.recovered, end: true, trials: s.trials, recovered: s.recovered }]);
    },
    draw(rows, width) {
      const schemes = data.schemes.filter(name => rows.some(row => row.scheme === name));
      const marks = [Plot.ruleY([0])];
      for (const name of schemes) marks.push(Plot.lineY(rows.filter(row => row.scheme === name), { x: "examples", y: "surviving", curve: "step-after", stroke: colourOf(data.schemes, name), strokeWidth: 2, strokeDasharray: dashOf(data.schemes, name) }));
      const title = row => `${row.scheme}\n${row.examples} images\n${number(100 * row.surviving, 1)}% not yet recovered\n${row.recovered} of ${row.trials} recovered in all`;
      marks.push(Plot.link(rows.filter(row => row.end && row.surviving > 0), { x1: "examples", x2: "examples", y1: row => row.surviving - 0.025, y2: row => row.surviving + 0.025, stroke: row => colourOf(data.schemes, row.scheme), strokeWidth: 2 }),
        Plot.tip(rows, Plot.pointer({ x: "examples", y: "surviving", title })));
      return [legend(data.schemes, schemes), Plot.plot({ ...common(width), height: 300, marginLeft: 48, marginBottom: 40, x: { label: "images trained on", ticks: 6, tickFormat: short, labelAnchor: "center", labelArrow: "none" }, y: { domain: [0, 1.03], label: "share not yet recovered", tickFormat: "%", ticks: 5, grid: true, labelArrow: "none" }, marks })];
    },
  },
  pareto: {
    prepare(figure) { if (!data.pareto.some(p => p.cell != null && p.latency != null)) $("option[value=latency]", figure).remove(); },
    rows(figure) {
      const [cost, which] = [$("[name=cost]", figure).value, $("[name=which]", figure).value];
      const parent = data.pareto.find(p => p.cell == null)?.accuracy ?? 100;
      return data.pareto.filter(p => p[cost] != null && (p.cell == null || which === "all" || (which === "trained" && data.cells[p.cell].scheme !== "none") || (which === "near" && p.accuracy >= parent - 5))).map(p => {
        const c = p.cell == null ? { block: "parent", substitute: "", init: "", scheme: "" } : data.cells[p.cell];
        return { against: cost, block: c.block, substitute: c.substitute, init: c.init, scheme: c.scheme, cost: p[cost], accuracy: p.accuracy, front: p.front[cost], headline: data.answer.some(a => a.cell != null && a.cell === p.cell) };
      });
    },
    draw(rows, width) {
      const children = rows.filter(row => row.block !== "parent"), parent = rows.filter(row => row.block === "parent");
      const blocks = data.blocks.filter(name => children.some(row => row.block === name));
      const front = rows.filter(row => row.front).sort((a, b) => a.cost - b.cost);
      const label = { parameters: "parameters", macs: "multiply-accumulates an image", latency: "inference time, of the parent’s" }[rows[0]?.against] ?? "";
      const symbols = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "hexagon"];
      const svg = Plot.plot({ ...common(width), height: Math.min(460, Math.max(300, width * 0.45)), marginLeft: 48, marginBottom: 40, x: { label, tickFormat: rows[0]?.against === "latency" ? undefined : short, ticks: width < 500 ? 4 : 8, nice: true, inset: 16, labelAnchor: "center", labelArrow: "none" }, y: { label: "test accuracy, %", grid: true, nice: true, inset: 8, labelArrow: "none" },
        symbol: { domain: blocks, range: symbols },
        marks: [Plot.lineY(front, { x: "cost", y: "accuracy", stroke: css("--soft"), strokeWidth: 1.5, curve: "step-after" }),
          Plot.dot(children, { x: "cost", y: "accuracy", symbol: "block", r: row => (row.headline ? 7 : 4), fill: row => colourOf(data.blocks, row.block), fillOpacity: row => (row.headline ? 1 : 0.55), stroke: row => (row.headline ? css("--ink") : "none"), strokeWidth: 1.5 }),
          Plot.dot(parent, { x: "cost", y: "accuracy", symbol: "star", r: 9, fill: css("--ink") }),
          Plot.text(parent, { x: "cost", y: "accuracy", text: ["parent"], dy: -16, fontWeight: 600 }),
          Plot.tip(rows, Plot.pointer({ x: "cost", y: "accuracy", title: row => `${[row.block, row.substitute, row.init, row.scheme].filter(Boolean).join(", ")}\n${number(row.accuracy)}%\n${row.against === "latency" ? number(row.cost, 3) : short(row.cost)} ${label}${row.front ? "\non the front" : ""}` }))] });
      const keys = make("div", { className: "legend" });
      blocks.forEach((name, i) => {
        const mark = d3.create("svg").attr("width", 14).attr("height", 14);
        const shape = { circle: d3.symbolCircle, square: d3.symbolSquare, triangle: d3.symbolTriangle, diamond: d3.symbolDiamond, star: d3.symbolStar, cross: d3.symbolCross, wye: d3.symbolWye, hexagon: d3.symbolSquare2 ?? d3.symbolSquare }[symbols[i % 8]];
        mark.append("path").attr("transform", "translate(7,7)").attr("d", d3.symbol(shape, 60)()).attr("fill", colourOf(data.blocks, name));
        keys.append(make("span", {}, mark.node(), name));
      });
      keys.append(make("span", {}, "large, outlined: the answer’s combination"));
      return [keys, svg];
    },
  },
};

const fill = (select, values, value) => {
  for (const name of values) select.append(make("option", { value: name, textContent: name }));
  if (values.includes(value)) select.value = value;
};
const tableRows = table => {
  const head = $$("thead th", table).map(cell => cell.textContent.trim());
  return $$("tbody tr", table).map(row => Object.fromEntries([...row.children].map((cell, i) => [head[i], cell.textContent.trim()])));
};
const csvText = rows => {
  if (!rows.length) return "";
  const keys = Object.keys(rows[0]).filter(key => key !== "panels" && key !== "end");
  const quote = value => { let text = value == null ? "" : String(value); if (/^[=+@\t\r]/.test(text) || (/^-/.test(text) && isNaN(text))) text = "'" + text; return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  return [keys, ...rows.map(row => keys.map(key => row[key]))].map(line => line.map(quote).join(",")).join("\r\n") + "\r\n";
};
const save = (name, type, text) => {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
};
// A plot as a file of its own: its legend above it, its colours as the page's, nothing left to the page's style sheet.
const svgFile = (parts, width) => {
  const svg = parts.find(part => part instanceof SVGSVGElement);
  const names = parts.filter(part => part.className === "legend").flatMap(part => [...part.children]);
  const copy = svg.cloneNode(true);
  $$("[aria-label=tip]", copy).forEach(tip => tip.remove());
  copy.setAttribute("y", 26);
  const height = +svg.getAttribute("height") + 30;
  const out = d3.create("svg").attr("xmlns", "http://www.w3.org/2000/svg").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`).attr("style", `font:12px system-ui,sans-serif;color:${css("--ink")};background:${css("--card")}`);
  out.append("rect").attr("width", width).attr("height", height).attr("fill", css("--card"));
  let x = 8;
  for (const name of names) {
    const mark = $("svg", name);
    if (mark) { const own = mark.cloneNode(true); own.setAttribute("x", x); own.setAttribute("y", 6); out.node().append(own); x += +mark.getAttribute("width") + 6; }
    out.append("text").attr("x", x).attr("y", 16).attr("fill", css("--ink")).text(name.textContent);
    x += 7 * name.textContent.length + 18;
  }
  out.node().append(copy);
  return new XMLSerializer().serializeToString(out.node());
};

const figures = $$("figure[data-plot]").map(figure => ({ figure, name: figure.dataset.plot, plot: plots[figure.dataset.plot] })).filter(item => item.plot);
const drawOne = ({ figure, plot }) => {
  const place = $(".plot", figure);
  if (!place || !plot.draw) return [];
  const width = Math.max(260, Math.floor(place.clientWidth));
  const drawn = plot.draw(plot.rows(figure), width);
  const parts = (Array.isArray(drawn) ? drawn : [drawn]).filter(Boolean);
  place.replaceChildren(...parts);
  $$("svg", place).filter(svg => svg.getAttribute("width") > 100).forEach(svg => { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", figure.closest("section").getAttribute("aria-label")); });
  return parts;
};
function redraw() { figures?.forEach(drawOne); }

for (const item of figures) {
  const { figure, name, plot } = item;
  plot.prepare?.(figure);
  $$("select", figure).forEach(select => select.addEventListener("change", () => { drawOne(item); if (table.open) showTable(); }));
  const tools = make("div", { className: "tools" });
  if (plot.draw) tools.append(make("button", { type: "button", textContent: "SVG", title: "Save this plot as SVG", onclick: () => {
    const width = 900, drawn = plot.draw(plot.rows(figure), width), parts = Array.isArray(drawn) ? drawn : [drawn];
    save(`${name}.svg`, "image/svg+xml", svgFile(parts, width));
  } }));
  tools.append(make("button", { type: "button", textContent: "CSV", title: "Save the numbers behind it as CSV", onclick: () => save(`${name}.csv`, "text/csv", csvText(plot.rows(figure))) }));
  const table = make("details", {}, make("summary", { textContent: "Numbers as a table" }));
  const showTable = () => {
    const rows = plot.rows(figure), keys = Object.keys(rows[0] ?? {}).filter(key => key !== "panels" && key !== "end");
    const body = rows.slice(0, 400).map(row => make("tr", {}, ...keys.map(key => make("td", { textContent: typeof row[key] === "number" ? String(+row[key].toPrecision(7)) : row[key] ?? "" }))));
    const element = make("table", { className: "plain" }, make("thead", {}, make("tr", {}, ...keys.map(key => make("th", { scope: "col", textContent: key })))), make("tbody", {}, ...body));
    table.replaceChildren(table.firstChild, make("div", { className: "scroll" }, element), ...(rows.length > 400 ? [make("small", { textContent: `The first 400 of ${rows.length} rows; the CSV file has all.` })] : []));
  };
  table.addEventListener("toggle", () => { if (table.open) showTable(); });
  figure.append(tools);
  if (name !== "matrix" && name !== "classes" && name !== "criticality") figure.append(table);
  else if (name === "criticality") figure.append(table);
}
applyTheme();
let lastWidth = innerWidth, timer;
addEventListener("resize", () => { if (innerWidth !== lastWidth) { lastWidth = innerWidth; clearTimeout(timer); timer = setTimeout(redraw, 120); } });

// Sorting: a press on a heading; numbers by value, names by letters; a third press restores the plan's order.
for (const table of $$("table.matrix")) {
  const rows = $$("tbody tr", table);
  $$(".sort", table).forEach(button => button.addEventListener("click", () => {
    const head = button.closest("th"), column = [...head.parentNode.children].indexOf(head);
    const next = { none: "descending", descending: "ascending", ascending: "none" }[head.getAttribute("aria-sort") ?? "none"];
    $$("th[aria-sort]", table).forEach(other => other.removeAttribute("aria-sort"));
    if (next !== "none") head.setAttribute("aria-sort", next);
    const value = row => { const raw = row.children[column].dataset.value; return raw == null ? null : raw !== "" && isFinite(raw) ? +raw : raw; };
    const sign = next === "ascending" ? 1 : -1;
    const sorted = next === "none" ? rows : [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x == null || y == null) return (x == null) - (y == null);
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
    });
    $("tbody", table).append(...sorted);
  }));
}

// What a cell holds, on hover and on focus.
const tip = $("#tip");
const showTip = cell => {
  tip.textContent = cell.dataset.tip;
  tip.hidden = false;
  const at = cell.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left + at.width / 2 - own.width / 2), innerWidth - own.width - 8);
  const above = at.top - own.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 50 ? above : Math.min(at.bottom + 8, innerHeight - own.height - 8)}px`;
};
const hideTip = () => { tip.hidden = true; };
for (const cell of $$("[data-tip]")) {
  cell.addEventListener("mouseenter", () => showTip(cell));
  cell.addEventListener("mouseleave", hideTip);
  cell.addEventListener("focus", () => { cell.setAttribute("aria-describedby", "tip"); showTip(cell); });
  cell.addEventListener("blur", () => { cell.removeAttribute("aria-describedby"); hideTip(); });
}
addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", hideTip, { passive: true });

for (const button of $$("[data-copy]")) button.addEventListener("click", async () => {
  const text = document.getElementById(button.dataset.copy).textContent;
  try { await navigator.clipboard.writeText(text); } catch { getSelection().selectAllChildren(document.getElementById(button.dataset.copy)); document.execCommand("copy"); }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
})();
