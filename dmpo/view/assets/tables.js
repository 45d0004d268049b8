// What stands above and below the curves: a card for each run, configuration, seconds of each phase, accuracies.

function overviewSection(sources) {
  return element("section", { id: "overview" }, element("h2", {}, "Overview"), element("div", { class: "runs" }, sources.map(runCard)));
}

function runCard(run, number, runs) {
  const heading = element("h3", {}, runs.length > 1 && sourceMark(number), visibleText(run.name));
  const numbers = run.measures.map(({ name, values, intervals }) => {
    const shown = name.endsWith("accuracy") ? percent : shortNumber;
    const interval = (bounds) => (bounds ? ` [${bounds.map(shown).join(", ")}]` : "");
    const meaning =
      name === "reward of rollouts"
        ? "mean reward of rollouts, in the first and in the last fifth of the steps"
        : `of the test rows, before${interval(intervals[0])} and after${interval(intervals[1])} training; 95 % intervals`;
    const change = element("dd", {}, shown(values[0]), element("span", { class: "arrow" }, " → "), element("b", {}, shown(values[1])));
    return element("div", { title: meaning }, element("dt", {}, name), change);
  });
  const facts = run.facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, visibleText(value))]);
  return element(
    "article",
    { class: "run" },
    heading,
    element("p", { class: "status", "data-running": String(run.is_running) }, run.status),
    numbers.length > 0 && element("dl", { class: "big" }, numbers),
    element("dl", { class: "small" }, facts),
    element("p", { class: "path" }, visibleText(run.path)),
  );
}

function settingsSection(tables, sources) {
  const section = element("section", { id: "configuration" }, element("h2", {}, "Configuration"));
  if (tables.length === 0) section.append(element("p", { class: "absent" }, "config.yaml is absent"));
  const heads = sources.length > 1 ? sources.map((source) => source.name) : ["value"];
  for (const table of tables) {
    const rows = table.rows.map(({ key, meaning, values }) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, visibleText(key)),
        values.map((value) => element("td", { class: "value" }, visibleText(value))),
        element("td", { class: "meaning" }, meaning),
      ),
    );
    const head = ["key", ...heads, "meaning"].map((text) => element("th", { scope: "col" }, visibleText(text)));
    const summary = element("summary", {}, element("h3", {}, table.title), element("span", { class: "names" }, `${rows.length} keys`));
    section.append(element("details", { id: `settings: ${table.title}`, open: table.open }, summary, tableOf(head, rows)));
  }
  return section;
}

function phasesSection(phases, sources) {
  const section = element("section", { id: "time" }, element("h2", {}, "Time"));
  if (phases.length === 0) {
    section.append(element("p", { class: "absent" }, "timings.jsonl has no line yet"));
    return section;
  }
  const totals = sources.map((_, run) => phases.reduce((sum, { seconds: values }) => sum + values[run], 0));
  const longest = Math.max(...phases.flatMap(({ seconds: values }) => values));
  const cell = (value, run) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--length", longest ? value / longest : 0);
    bar.style.setProperty("--source", `var(--source-${run % COLOURS})`);
    const share = totals[run] ? percent(value / totals[run]) : "";
    return element("td", { class: "time" }, element("span", {}, seconds(value)), element("span", { class: "soft" }, share), bar);
  };
  const rows = phases.map(({ phase, seconds: values }) =>
    element("tr", {}, element("th", { scope: "row" }, phase), values.map(cell)),
  );
  rows.push(
    element("tr", { class: "sum" }, element("th", { scope: "row" }, "all phases"), totals.map((value) => element("td", {}, seconds(value)))),
  );
  const head = ["phase", ...(sources.length > 1 ? sources.map((source) => source.name) : ["seconds"])];
  section.append(tableOf(head.map((text) => element("th", { scope: "col" }, visibleText(text))), rows));
  return section;
}

function accuracySection({ header, rows, bars }, sources) {
  const head = header.map((text) => element("th", { scope: "col" }, visibleText(text)));
  const body = rows.map((row) => element("tr", {}, row.map((text, place) => element(place ? "td" : "th", {}, visibleText(text)))));
  const plot = element("div", { class: "plot", id: "accuracy-plot" });
  const section = element("section", { id: "accuracies" }, element("h2", {}, "Accuracies"));
  section.append(element("p", { class: "remark" }, "with 95 % intervals"), tableOf(head, body), element("figure", { class: "chart wide" }, plot));
  const draw = (plotly) => {
    const traces = sources.map((source, number) => {
      const own = bars.filter((bar) => bar.source === number);
      const x = own.map((bar) => bar.value);
      return {
        x,
        y: own.map((bar) => plotlyText(bar.label)),
        mode: "markers",
        marker: { size: 9, color: sourceColour(number), symbol: SYMBOLS[number % SYMBOLS.length] },
        error_x: {
          type: "data",
          symmetric: false,
          array: own.map((bar) => bar.high - bar.value),
          arrayminus: own.map((bar) => bar.value - bar.low),
          color: sourceColour(number),
        },
        hovertemplate: `%{x:.1%}<extra></extra>`,
      };
    });
    const layout = { ...plotLayout(), height: 70 + 30 * bars.length };
    layout.xaxis = { ...plotAxis(), range: [0, 1.02], tickformat: ".0%" };
    layout.yaxis = { ...plotAxis(), autorange: "reversed", type: "category" };
    plotly.react(plot, traces, layout, plotConfig());
  };
  return { section, draw };
}

function tableOf(head, rows) {
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows)));
}
