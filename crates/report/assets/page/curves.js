// Learning curves, a panel per block or per scheme.
plots.curves = {
  prepare(figure) {
    const inits = new Set(data.curves.filter(curve => curve.role === "child").map(curve => curve.init));
    fillSelect($("[name=init]", figure), [...inits], data.headline?.init);
  },
  rows(figure) {
    const [panels, init] = [$("[name=panels]", figure).value, $("[name=init]", figure).value];
    return data.curves
      .filter(curve => curve.role === "parent-continued" || (curve.role === "child" && curve.init === init))
      .flatMap(({ points, ...curve }) => points.map(point => ({ panels, ...curve, ...point })));
  },
  draw(rows, width) {
    if (!rows.length) return null;
    const [panel, line] = rows[0].panels === "block" ? ["block", "scheme"] : ["scheme", "block"];
    const names = { block: blockNames, scheme: data.schemes };
    const children = rows.filter(row => row.role === "child");
    const panels = names[panel].filter(name => children.some(row => row[panel] === name));
    const lines = names[line].filter(name => children.some(row => row[line] === name));
    if (!panels.length) return null; // No child has finished yet.
    // The fine-tuned parent has a scheme: it belongs to that scheme's panel, or, of the answer's scheme, to every block's.
    const controls = rows.filter(row => row.role === "parent-continued");
    const controlOf = name =>
      controls.filter(
        row => row.scheme === (panel === "scheme" ? name : data.headline?.scheme) && (!row.block || row.block === name),
      );
    const parent = data.parent?.validation;
    const ranges = panels.map(name => {
      const own = children.filter(row => row[panel] === name);
      const low = d3.quantile(own.map(row => row.mean).sort(d3.ascending), 0.12);
      const high = d3.max([...own, ...controlOf(name)].map(row => row.high));
      // The parent's line lies inside every panel.
      return [Math.min(low, parent ?? low), Math.max(high, parent ?? high)];
    });
    const { free, axes } = panelAxes(ranges, 1);
    const domain = ([low, high]) => [Math.max(0, low), Math.min(100, high)];
    const key = row => [row.block, row.substitute, row.init, row.scheme].join("\u0000");
    const drawPanel = (name, panelWidth) => {
      const own = children.filter(row => row[panel] === name);
      const stroke = row => colourOf(names[line], row[line]);
      const xy = { x: "examples", y: "mean", z: key, clip: true };
      const title = row =>
        `${row.block}, ${row.init}, ${row.scheme}\n${row.examples} images\n` +
        `${number(row.mean)}% (${number(row.low)} to ${number(row.high)})\n${row.trials} trials`;
      return Plot.plot({
        ...plotStyle(panelWidth),
        height: 220,
        marginTop: 24,
        marginBottom: 36,
        marginLeft: 40,
        marginRight: 20,
        x: { label: "images trained on", ticks: 4, tickFormat: short, labelAnchor: "center", labelArrow: "none" },
        y: { label: null, domain: domain(axes[panels.indexOf(name)]), ticks: 5, grid: true },
        marks: [
          Plot.frame({ stroke: css("--line") }),
          parent == null ? null : Plot.ruleY([parent], { stroke: css("--soft"), strokeWidth: 1.5 }),
          Plot.areaY(own, { ...xy, y: undefined, y1: "low", y2: "high", fill: stroke, fillOpacity: 0.13 }),
          Plot.lineY(controlOf(name), { ...xy, stroke: css("--soft"), strokeDasharray: "4 3" }),
          ...lines.map(one =>
            Plot.lineY(
              own.filter(row => row[line] === one),
              { ...xy, stroke, strokeWidth: 2, strokeDasharray: dashOf(names[line], one) },
            ),
          ),
          panelTitle(name),
          Plot.tip(own, Plot.pointer({ x: "examples", y: "mean", title, maxRadius: 30 })),
        ],
      });
    };
    const legend = lineLegend(names[line], lines);
    const note = free ? "; each panel has its own axis" : "";
    legend.append(make("span", { className: "unit" }, `vertical: validation accuracy, %${note}`));
    return [legend, panelGrid(panels, width, drawPanel)];
  },
};
