// CKA similarity through the network, a panel per replaced block.
plots.similarity = {
  rows: () =>
    data.similarity.flatMap(({ block, trials, layers }) =>
      layers.map(({ layer, before, after }) => ({ block, layer, before, after, trials })),
    ),
  draw(rows, width) {
    const known = rows.filter(row => row.after != null || row.before != null);
    const blocks = blockNames.filter(name => known.some(row => row.block === name));
    const compared = data.layers.filter(name => known.some(row => row.layer === name));
    const ranges = blocks.map(name => {
      const own = known.filter(row => row.block === name);
      return [d3.min(own, row => Math.min(row.before ?? 1, row.after ?? 1)), 1];
    });
    const { free, axes } = panelAxes(ranges, 0.1);
    const title = row =>
      `${row.block} replaced\n${row.layer}\nbefore training ${number(row.before, 3)}\n` +
      `after training ${number(row.after, 3)}\n${row.trials} trials`;
    const x = row => compared.indexOf(row.layer) + 1;
    const drawPanel = (name, panelWidth) => {
      const own = known.filter(row => row.block === name);
      const output = data.blocks.find(block => block.block === name).output_layer;
      const stroke = colourOf(blockNames, name);
      const value = row => row.after ?? row.before;
      return Plot.plot({
        ...plotStyle(panelWidth),
        height: 210,
        marginTop: 24,
        marginBottom: 30,
        marginLeft: 40,
        marginRight: 20,
        x: {
          label: "layers, from input to output",
          domain: [1, Math.max(2, compared.length)],
          ticks: [],
          labelAnchor: "center",
          labelArrow: "none",
        },
        y: { label: null, domain: axes[blocks.indexOf(name)], ticks: 5, grid: true },
        marks: [
          Plot.frame({ stroke: css("--line") }),
          Plot.lineY(
            own.filter(row => row.before != null),
            { x, y: "before", stroke, strokeWidth: 1.5, strokeDasharray: "4 3" },
          ),
          Plot.lineY(
            own.filter(row => row.after != null),
            { x, y: "after", stroke, strokeWidth: 2 },
          ),
          Plot.dot(
            own.filter(row => row.after != null && row.layer === output),
            { x, y: "after", r: 5, fill: stroke, stroke: css("--ink") },
          ),
          panelTitle(`${name} replaced`),
          Plot.tip(own, Plot.pointer({ x, y: value, title })),
        ],
      });
    };
    const unit = `vertical: linear CKA${free ? "; each panel has its own axis" : ""}`;
    const legend = make("div", { className: "legend" }, make("span", { className: "unit" }, unit));
    return [legend, panelGrid(blocks, width, drawPanel)];
  },
};
