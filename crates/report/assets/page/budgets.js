// Criticality against budget: a line per block, with its 95% intervals.
plots.budgets = {
  rows() {
    const same = at => JSON.stringify(at.headline) === JSON.stringify(data.headline);
    return data.budgets.each.filter(same).flatMap(at =>
      at.blocks
        .filter(block => block.cell != null && at.cells[block.cell].criticality)
        .map(block => {
          const cell = at.cells[block.cell];
          const { mean, interval } = cell.criticality;
          const found = data.budgets.convergence.find(
            one =>
              one.budget === at.images &&
              ["block", "substitute", "init", "scheme"].every(key => one[key] === cell[key]),
          );
          const converged = found?.converged == null ? "not known" : found.converged ? "yes" : "no";
          return {
            block: block.block,
            budget: at.name,
            images: at.images,
            drop: mean,
            low: interval?.[0],
            high: interval?.[1],
            accuracy: cell.accuracy,
            control_accuracy: cell.control_accuracy,
            converged,
          };
        }),
    );
  },
  draw(rows, width) {
    const blocks = blockNames.filter(name => rows.some(row => row.block === name));
    const stroke = row => colourOf(blockNames, row.block);
    const xy = { x: "images", y: "drop" };
    const title = row =>
      `${row.block}, ${row.budget}\n${number(row.drop)} pp` +
      (row.low == null ? "" : ` (${number(row.low)} to ${number(row.high)})`) +
      `\nconverged: ${row.converged}`;
    const images = [...new Set(rows.map(row => row.images))];
    const plot = Plot.plot({
      ...plotStyle(width),
      height: Math.min(420, Math.max(280, width * 0.42)),
      marginLeft: 48,
      marginBottom: 40,
      x: {
        type: "log",
        label: "images trained on",
        ticks: images,
        tickFormat: short,
        inset: 16,
        labelAnchor: "center",
        labelArrow: "none",
      },
      y: { label: "accuracy drop, pp", grid: true, nice: true, labelArrow: "none" },
      marks: [
        Plot.ruleY([0]),
        Plot.ruleX(
          rows.filter(row => row.low != null),
          { x: "images", y1: "low", y2: "high", stroke, strokeOpacity: 0.45, strokeWidth: 2 },
        ),
        ...blocks.map(name =>
          Plot.lineY(
            rows.filter(row => row.block === name),
            { ...xy, stroke, strokeWidth: 2, strokeDasharray: dashOf(blockNames, name) },
          ),
        ),
        Plot.dot(rows, {
          ...xy,
          r: 4,
          stroke,
          strokeWidth: 2,
          fill: row => (row.converged === "yes" ? stroke(row) : css("--card")),
        }),
        Plot.tip(rows, Plot.pointer({ ...xy, title })),
      ],
    });
    const note = make("small", { textContent: "Full dots: converged. Open dots: not, or not known." });
    return [lineLegend(blockNames, blocks), plot, note];
  },
};
