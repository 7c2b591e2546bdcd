// The answer as a plot. The page has its own drawing of it; this one is for the SVG file and the table.
plots.criticality = {
  rows: () => data.blocks.filter(block => block.cell != null).map(block => cellRow(data.cells[block.cell])),
  draw(rows, width) {
    const margin = data.options.margin;
    return Plot.plot({
      ...plotStyle(width),
      height: 60 + 36 * rows.length,
      marginLeft: 90,
      x: { label: "accuracy drop, percentage points →", grid: true },
      y: { domain: blockNames, label: null },
      marks: [
        Plot.rectX([0], { x1: -margin, x2: margin, fill: css("--band"), insetTop: 0 }),
        Plot.ruleX([0], { stroke: css("--soft") }),
        Plot.ruleY(rows, { y: "block", x1: "low", x2: "high", strokeWidth: 2 }),
        Plot.dot(rows, { y: "block", x: "drop", r: 6, fill: css("--no"), stroke: "currentColor" }),
      ],
    });
  },
};
plots.matrix = { rows: () => data.cells.map(cellRow) };
plots.classes = {
  rows(figure) {
    const names = $$("thead th", figure).map(cell => cell.textContent.trim());
    return $$("tbody tr", figure).map(row =>
      Object.fromEntries([...row.children].map((cell, i) => [names[i], cell.textContent.trim()])),
    );
  },
};
