// Kaplan-Meier curves of recovery, a line per scheme.
plots.survival = {
  prepare(figure) {
    const blocks = new Set(data.survival.map(curve => curve.block).filter(Boolean));
    fillSelect($("[name=block]", figure), ["all blocks", ...blocks]);
  },
  rows(figure) {
    const block = $("[name=block]", figure).value;
    const chosen = data.survival.filter(curve => (curve.block ?? "all blocks") === block);
    return chosen.flatMap(({ scheme, trials, recovered, until, steps }) => {
      const common = { scheme, trials, recovered };
      const last = { at: until, surviving: steps.at(-1).surviving, at_risk: trials - recovered };
      const row = (step, end) => ({
        ...common,
        examples: step.at,
        surviving: step.surviving,
        at_risk: step.at_risk,
        end,
      });
      return [...steps.map(step => row(step, false)), row(last, true)];
    });
  },
  draw(rows, width) {
    const schemes = data.schemes.filter(name => rows.some(row => row.scheme === name));
    const stroke = row => colourOf(data.schemes, row.scheme);
    const title = row =>
      `${row.scheme}\n${row.examples} images\n${number(100 * row.surviving, 1)}% not yet recovered\n` +
      `${row.recovered} of ${row.trials} recovered in all`;
    const plot = Plot.plot({
      ...plotStyle(width),
      height: 300,
      marginLeft: 48,
      marginBottom: 40,
      x: { label: "images trained on", ticks: 6, tickFormat: short, labelAnchor: "center", labelArrow: "none" },
      y: {
        domain: [0, 1.03],
        label: "share not yet recovered",
        tickFormat: "%",
        ticks: 5,
        grid: true,
        labelArrow: "none",
      },
      marks: [
        Plot.ruleY([0]),
        ...schemes.map(name =>
          Plot.lineY(
            rows.filter(row => row.scheme === name),
            {
              x: "examples",
              y: "surviving",
              curve: "step-after",
              stroke,
              strokeWidth: 2,
              strokeDasharray: dashOf(data.schemes, name),
            },
          ),
        ),
        Plot.link(
          rows.filter(row => row.end && row.surviving > 0),
          {
            x1: "examples",
            x2: "examples",
            y1: row => row.surviving - 0.025,
            y2: row => row.surviving + 0.025,
            stroke,
            strokeWidth: 2,
          },
        ),
        Plot.tip(rows, Plot.pointer({ x: "examples", y: "surviving", title })),
      ],
    });
    return [lineLegend(data.schemes, schemes), plot];
  },
};
