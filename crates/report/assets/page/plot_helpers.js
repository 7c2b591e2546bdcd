// What the plots share: the analysis, colours, legends and panels.
const data = JSON.parse(document.getElementById("data").textContent);
const blockNames = data.blocks.map(block => block.block);
// A cell as a flat row.
const cellRow = cell => ({
  block: cell.block,
  substitute: cell.substitute,
  init: cell.init,
  scheme: cell.scheme,
  trials: cell.trials,
  accuracy: cell.accuracy,
  control_accuracy: cell.control_accuracy,
  drop: cell.criticality?.mean,
  low: cell.criticality?.interval?.[0],
  high: cell.criticality?.interval?.[1],
  drop_before_training: cell.drop_before_training,
  recovered: cell.recovered,
  seconds: cell.seconds,
});

// Okabe and Ito's colours, distinguishable with any kind of colour vision; every line has its own dash pattern as well.
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#3b9bd6", "#5b5b5b", "#7b3fa0"];
const DARK = ["#56b4e9", "#ff8c42", "#2ec99a", "#e79cc4", "#f0e442", "#9ad0f5", "#c8c8c8", "#c792ea"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 3", "12 3", "6 2 1 2 1 2"];
const palette = () => (root.dataset.theme === "dark" ? DARK : LIGHT);
const colourOf = (domain, name) => palette()[Math.max(0, domain.indexOf(name)) % 8];
const dashOf = (domain, name) => DASHES[Math.max(0, domain.indexOf(name)) % 8];

const number = (x, digits = 2) => (x == null ? "" : x.toFixed(digits).replace("-", "−"));
const short = x => {
  const [unit, name] = x >= 1e9 ? [1e9, " G"] : x >= 1e6 ? [1e6, " M"] : x >= 1e3 ? [1e3, " k"] : [1, ""];
  return +(x / unit).toPrecision(3) + name;
};

const plots = {};
const plotStyle = width => ({
  width,
  style: { fontFamily: "inherit", fontSize: "12px", background: "transparent", color: "inherit" },
});
const lineLegend = (domain, names) => {
  const element = make("div", { className: "legend" });
  for (const name of names) {
    const svg = d3.create("svg").attr("width", 26).attr("height", 10);
    const line = svg.append("line").attr("x1", 0).attr("x2", 26).attr("y1", 5).attr("y2", 5);
    line.attr("stroke", colourOf(domain, name)).attr("stroke-width", 2.5);
    line.attr("stroke-dasharray", dashOf(domain, name));
    element.append(make("span", {}, svg.node(), name));
  }
  return element;
};
const fillSelect = (select, values, value) => {
  for (const name of values) select.append(make("option", { value: name, textContent: name }));
  if (values.includes(value)) select.value = value;
};
// One plot per name in a grid. The number of columns fits the width, with rows as even as possible.
const panelGrid = (names, width, draw) => {
  const most = Math.max(1, Math.min(names.length, Math.floor(width / 270)));
  const columns = Math.ceil(names.length / Math.ceil(names.length / most));
  const grid = make("div", { className: "panels" });
  grid.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  grid.append(...names.map(name => draw(name, Math.floor(width / columns))));
  return grid;
};
// The vertical axis of each panel, given the ranges of their values. All share one, unless a panel would use less than a
// third of it and look flat: then each has its own, at least `least` long.
const panelAxes = (ranges, least) => {
  const shared = [d3.min(ranges, range => range[0]), d3.max(ranges, range => range[1])];
  const free = ranges.some(([low, high]) => high - low < (shared[1] - shared[0]) / 3);
  const axis = ([low, high]) => {
    const space = Math.max(0.08 * (high - low), (least - (high - low)) / 2);
    return [low - space, high + space];
  };
  return { free, axes: ranges.map(range => axis(free ? range : shared)) };
};
const panelTitle = text => Plot.text([text], { frameAnchor: "top-left", dy: -16, fontWeight: 600 });
