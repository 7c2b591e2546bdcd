// Accuracy against cost, a mark per replacement.
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "hexagon"];
const symbolType = name =>
  ({
    circle: d3.symbolCircle,
    square: d3.symbolSquare,
    triangle: d3.symbolTriangle,
    diamond: d3.symbolDiamond,
    star: d3.symbolStar,
    cross: d3.symbolCross,
    wye: d3.symbolWye,
  })[name] ??
  d3.symbolSquare2 ??
  d3.symbolSquare;
const symbolLegend = blocks => {
  const element = make("div", { className: "legend" });
  blocks.forEach((name, i) => {
    const svg = d3.create("svg").attr("width", 14).attr("height", 14);
    const mark = svg.append("path").attr("transform", "translate(7,7)");
    mark.attr("d", d3.symbol(symbolType(SYMBOLS[i % 8]), 60)()).attr("fill", colourOf(blockNames, name));
    element.append(make("span", {}, svg.node(), name));
  });
  element.append(make("span", {}, "large, outlined: the answer's combination"));
  return element;
};

plots.pareto = {
  prepare(figure) {
    const timed = data.pareto.some(point => point.cell != null && point.latency != null);
    if (!timed) $("option[value=latency]", figure).remove();
  },
  rows(figure) {
    const [cost, which] = [$("[name=cost]", figure).value, $("[name=which]", figure).value];
    const parentAccuracy = data.pareto.find(point => point.cell == null)?.accuracy ?? 100;
    const shown = {
      all: () => true,
      trained: point => data.cells[point.cell].scheme !== "none",
      near: point => point.accuracy >= parentAccuracy - 5,
    }[which];
    const parent = { block: "parent", substitute: "", init: "", scheme: "" };
    return data.pareto
      .filter(point => point[cost] != null && (point.cell == null || shown(point)))
      .map(point => {
        const { block, substitute, init, scheme } = point.cell == null ? parent : data.cells[point.cell];
        const headline = point.cell != null && data.blocks.some(one => one.cell === point.cell);
        const { accuracy, front } = point;
        return {
          against: cost,
          block,
          substitute,
          init,
          scheme,
          cost: point[cost],
          accuracy,
          front: front[cost],
          headline,
        };
      });
  },
  draw(rows, width) {
    const children = rows.filter(row => row.block !== "parent");
    const parent = rows.filter(row => row.block === "parent");
    const blocks = blockNames.filter(name => children.some(row => row.block === name));
    const against = rows[0]?.against;
    const labels = {
      parameters: "parameters",
      macs: "multiply-accumulates per image",
      latency: "inference time, relative to the parent",
    };
    const label = labels[against] ?? "";
    const costText = x => (against === "latency" ? number(x, 3) : short(x));
    const title = row =>
      `${[row.block, row.substitute, row.init, row.scheme].filter(Boolean).join(", ")}\n${number(row.accuracy)}%\n` +
      `${costText(row.cost)} ${label}${row.front ? "\non the Pareto front" : ""}`;
    const xy = { x: "cost", y: "accuracy" };
    const plot = Plot.plot({
      ...plotStyle(width),
      height: Math.min(460, Math.max(300, width * 0.45)),
      marginLeft: 48,
      marginBottom: 40,
      x: {
        label,
        tickFormat: against === "latency" ? undefined : short,
        ticks: width < 500 ? 4 : 8,
        nice: true,
        inset: 16,
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: { label: "test accuracy, %", grid: true, nice: true, inset: 8, labelArrow: "none" },
      symbol: { domain: blocks, range: SYMBOLS },
      marks: [
        Plot.lineY(
          rows.filter(row => row.front).sort((a, b) => a.cost - b.cost),
          { ...xy, stroke: css("--soft"), strokeWidth: 1.5, curve: "step-after" },
        ),
        Plot.dot(children, {
          ...xy,
          symbol: "block",
          r: row => (row.headline ? 7 : 4),
          fill: row => colourOf(blockNames, row.block),
          fillOpacity: row => (row.headline ? 1 : 0.55),
          stroke: row => (row.headline ? css("--ink") : "none"),
          strokeWidth: 1.5,
        }),
        Plot.dot(parent, { ...xy, symbol: "star", r: 9, fill: css("--ink") }),
        Plot.text(parent, { ...xy, text: ["parent"], dy: -16, fontWeight: 600 }),
        Plot.tip(rows, Plot.pointer({ ...xy, title })),
      ],
    });
    return [symbolLegend(blocks), plot];
  },
};
