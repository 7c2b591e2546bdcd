// Draws every figure, and gives it its SVG file, its CSV file and its table.
const HIDDEN = new Set(["panels", "end"]);
const csvText = rows => {
  if (!rows.length) return "";
  const keys = Object.keys(rows[0]).filter(key => !HIDDEN.has(key));
  const quote = value => {
    let text = value == null ? "" : String(value);
    // A spreadsheet would run such text as a formula.
    if (/^[=+@\t\r]/.test(text) || (/^-/.test(text) && isNaN(text))) text = "'" + text;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [keys, ...rows.map(row => keys.map(key => row[key]))];
  return lines.map(line => line.map(quote).join(",")).join("\r\n") + "\r\n";
};
const save = (name, type, text) => {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
};

// What a plot draws at a width, as a list of elements.
const drawn = ({ figure, plot }, width) => {
  const parts = plot.draw(plot.rows(figure), width);
  return (Array.isArray(parts) ? parts : [parts]).filter(Boolean);
};
const drawFigure = item => {
  const place = $(".plot", item.figure);
  if (!place || !item.plot.draw) return;
  place.replaceChildren(...drawn(item, Math.max(260, Math.floor(place.clientWidth))));
  for (const svg of $$("svg", place).filter(svg => svg.getAttribute("width") > 100)) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", item.figure.closest("section").getAttribute("aria-label"));
  }
};

// A self-contained SVG file: the legend above the panels, with the page's colours.
const svgFile = (parts, width) => {
  const legends = parts.filter(part => part.className === "legend");
  const panels = parts
    .flatMap(part => (part.className === "panels" ? [...part.children] : part))
    .filter(part => part instanceof SVGSVGElement);
  const size = name => +panels[0].getAttribute(name);
  const columns = Math.max(1, Math.floor(width / size("width")));
  const height = 30 + size("height") * Math.ceil(panels.length / columns);
  const out = d3.create("svg").attr("xmlns", "http://www.w3.org/2000/svg");
  out.attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
  out.attr("style", `font:12px system-ui,sans-serif;color:${css("--ink")};background:${css("--card")}`);
  out.append("rect").attr("width", width).attr("height", height).attr("fill", css("--card"));
  let x = 8;
  for (const entry of legends.flatMap(legend => [...legend.children])) {
    const mark = $("svg", entry)?.cloneNode(true);
    if (mark) {
      mark.setAttribute("x", x);
      mark.setAttribute("y", 6);
      out.node().append(mark);
      x += +mark.getAttribute("width") + 6;
    }
    out.append("text").attr("x", x).attr("y", 16).attr("fill", css("--ink")).text(entry.textContent);
    x += 7 * entry.textContent.length + 18;
  }
  panels.forEach((panel, i) => {
    const copy = panel.cloneNode(true);
    $$("[aria-label=tip]", copy).forEach(tip => tip.remove());
    copy.setAttribute("x", size("width") * (i % columns));
    copy.setAttribute("y", 26 + size("height") * Math.floor(i / columns));
    out.node().append(copy);
  });
  return new XMLSerializer().serializeToString(out.node());
};

const ROWS = 400;
const numbersTable = rows => {
  const keys = Object.keys(rows[0] ?? {}).filter(key => !HIDDEN.has(key));
  const cell = value =>
    typeof value === "number"
      ? make("td", { textContent: String(+value.toPrecision(7)) })
      : make("td", { textContent: value ?? "" });
  const heading = key => {
    const head = make("th", { scope: "col" }, make("button", { type: "button", className: "sort", textContent: key }));
    return head;
  };
  const table = make(
    "table",
    { className: "plain" },
    make("thead", {}, make("tr", {}, ...keys.map(heading))),
    make("tbody", {}, ...rows.slice(0, ROWS).map(row => make("tr", {}, ...keys.map(key => cell(row[key]))))),
  );
  makeSortable(table);
  const box = make("div", { className: "scroll" }, table);
  hintScroll(box);
  const more = `The first ${ROWS} of ${rows.length} rows; the CSV file has all.`;
  return rows.length > ROWS ? [box, make("small", { textContent: more })] : [box];
};

const figures = $$("figure[data-plot]")
  .map(figure => ({ figure, name: figure.dataset.plot, plot: plots[figure.dataset.plot] }))
  .filter(item => item.plot);
for (const item of figures) {
  const { figure, name, plot } = item;
  plot.prepare?.(figure);
  const button = (text, title, onclick) => make("button", { type: "button", textContent: text, title, onclick });
  const tools = make("div", { className: "tools" });
  const svg = () => save(`${name}.svg`, "image/svg+xml", svgFile(drawn(item, 900), 900));
  if (plot.draw) tools.append(button("SVG", "Save this plot as SVG", svg));
  const csv = () => save(`${name}.csv`, "text/csv", csvText(plot.rows(figure)));
  tools.append(button("CSV", "Save the numbers behind it as CSV", csv));
  figure.append(tools);
  const details = make("details", {}, make("summary", { textContent: "Numbers as a table" }));
  const showNumbers = () => {
    if (details.open) details.replaceChildren(details.firstChild, ...numbersTable(plot.rows(figure)));
  };
  details.addEventListener("toggle", showNumbers);
  // The matrix and the classes are tables already.
  if (plot.draw) figure.append(details);
  for (const select of $$("select", figure))
    select.addEventListener("change", () => {
      drawFigure(item);
      showNumbers();
    });
}

const redraw = () => figures.forEach(drawFigure);
onTheme.push(redraw);
redraw();
let drawnWidth = innerWidth;
let resizeTimer;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  clearTimeout(resizeTimer);
  resizeTimer = setTimeout(redraw, 120);
});
