// Curves of metrics. plotly.js draws a chart when it comes into view for the first time.

const CHART_HEIGHT = 210;

class Curves {
  constructor(groups, sources) {
    this.groups = groups;
    this.sources = sources;
    this.hidden = new Set(); // numbers of runs
    this.smoothing = 0;
    this.charts = [];
    this.plotly = null;
    this.observer = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "150px" });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.redraw());
  }

  section() {
    const filter = element("input", {
      type: "search",
      id: "curve-filter",
      placeholder: "name or meaning",
      oninput: afterPause(() => this.#filter(filter.value), 80),
    });
    const amount = element("output", {}, "none");
    const smoothing = element("input", {
      type: "range",
      id: "smoothing",
      min: 0,
      max: 0.98,
      step: 0.02,
      value: 0,
      oninput: () => {
        this.smoothing = Number(smoothing.value);
        amount.textContent = this.smoothing ? this.smoothing.toFixed(2) : "none";
        this.#redrawSoon();
      },
    });
    const smooth = element("label", { class: "control" }, element("span", {}, "smoothing"), smoothing, amount);
    const controls = element("div", { class: "controls" }, labelled("find", filter), smooth);
    if (this.sources.length > 1) controls.append(this.#legend());
    return element(
      "section",
      { id: "curves" },
      element("h2", {}, "Curves"),
      element("p", { class: "remark" }, "Over gradient steps. Drag to zoom, double-click to zoom out."),
      controls,
      this.groups.map((group) => this.#group(group)),
    );
  }

  /** Gives plotly.js to the charts; those in view are drawn now. */
  start(plotly) {
    this.plotly = plotly;
    for (const chart of this.charts) this.observer.observe(chart.plot);
  }

  redraw() {
    for (const chart of this.charts) if (chart.drawn) this.#draw(chart);
  }

  #redrawSoon = afterPause(() => this.redraw(), 60);

  #legend() {
    const boxes = this.sources.map((source, number) => {
      const box = element("input", {
        type: "checkbox",
        id: `run-${number}`,
        checked: true,
        oninput: () => {
          if (box.checked) this.hidden.delete(number);
          else this.hidden.add(number);
          this.redraw();
        },
      });
      return element("label", { class: "chip" }, box, sourceMark(number), visibleText(source.name));
    });
    return element("fieldset", { class: "legend" }, element("legend", {}, "runs"), boxes);
  }

  #group(group) {
    const figures = group.curves.map((curve) => this.#figure(curve));
    const only = group.curves.map((curve) => ("value" in curve ? `${curve.name} ${shortNumber(curve.value)}` : curve.name));
    const names = element("span", { class: "names" }, only.join(" · "));
    const summary = element("summary", {}, element("h3", {}, group.title), names);
    const details = element(
      "details",
      { id: `curves: ${group.title}`, open: group.open },
      summary,
      element("div", { class: "charts" }, figures),
    );
    details.wasOpen = group.open;
    return details;
  }

  #figure(curve) {
    const plot = element("div", { class: "plot" });
    const chart = { curve, plot, drawn: false };
    const meaning = curve.meaning || "";
    chart.figure = element(
      "figure",
      { class: "chart", "data-name": curve.name },
      element(
        "figcaption",
        { title: meaning || null },
        element("strong", {}, visibleText(curve.name)),
        meaning && element("span", { class: "meaning" }, meaning),
      ),
      plot,
    );
    plot.chart = chart;
    this.charts.push(chart);
    return chart.figure;
  }

  #filter(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (curve) => wanted.every((word) => `${curve.name} ${curve.meaning}`.toLowerCase().includes(word));
    for (const { figure, curve } of this.charts) figure.hidden = !has(curve);
    for (const details of document.querySelectorAll("#curves details")) {
      const some = details.querySelector("figure:not([hidden])") !== null;
      details.hidden = !some;
      if (wanted.length === 0) details.open = details.wasOpen;
      else if (some) details.open = true;
    }
  }

  #seen(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.observer.unobserve(target);
      this.#draw(target.chart);
    }
    document.documentElement.dataset.drawn = "yes";
  }

  #draw(chart) {
    const { curve, plot } = chart;
    chart.drawn = true;
    const traces = curve.series.filter((one) => !this.hidden.has(one.source)).flatMap((one) => this.#traces(one));
    this.plotly.react(plot, traces, this.#layout(curve), plotConfig());
  }

  #traces(series) {
    const { source, shape, x, y } = series;
    const colour = sourceColour(source);
    const name = this.sources.length > 1 ? plotlyText(this.sources[source].name) : "";
    const values = y.filter((value) => value !== null).length;
    const line = { color: colour, width: 1.8, dash: DASHES[Math.floor(source / COLOURS) % DASHES.length] };
    const hovertemplate = `%{y:.5~g}<extra>${name}</extra>`;
    if (shape === "ends") {
      const marker = { symbol: "diamond-open", size: 9, color: colour, line: { width: 2 } };
      const extra = `<extra>${name ? `${name}, ` : ""}test rows</extra>`;
      return [{ x, y, mode: "markers", marker, hovertemplate: `%{y:.5~g}${extra}` }];
    }
    if (shape === "points" || values < 3) {
      const marker = { size: 6, color: colour, symbol: SYMBOLS[source % SYMBOLS.length] };
      return [{ x, y, mode: "lines+markers", connectgaps: true, line, marker, hovertemplate }];
    }
    if (!this.smoothing) return [{ x, y, mode: "lines", line, hovertemplate }];
    const raw = { x, y, mode: "lines", line: { ...line, width: 1 }, opacity: 0.28, hoverinfo: "skip" };
    return [raw, { x, y: smoothed(y, this.smoothing), mode: "lines", line: { ...line, width: 2.2 }, hovertemplate }];
  }

  #layout(curve) {
    const axis = plotAxis();
    const share = /accuracy$/.test(curve.name);
    return {
      ...plotLayout(),
      height: CHART_HEIGHT,
      hovermode: "x unified",
      xaxis: { ...axis, hoverformat: "d", unifiedhovertitle: { text: "step %{x}" }, tickformat: "~s", nticks: 6 },
      yaxis: { ...axis, nticks: 5, tickformat: share ? ".0%" : null, ...(share && { minallowed: -0.02, maxallowed: 1.02 }), exponentformat: "power" },
      uirevision: "same", // zoom survives smoothing
    };
  }
}

const COLOURS = 7;
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "triangle-up", "x", "star", "pentagon", "cross"];

function cssValue(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function sourceColour(number) {
  return cssValue(`--source-${number % COLOURS}`);
}

/** A small square in the colour of a run. */
function sourceMark(number) {
  return element("span", { class: "mark", style: `--source: var(--source-${number % COLOURS})`, "aria-hidden": "true" });
}

/** A name as plotly.js takes it: it would read <b> and &amp; in it as marks. */
function plotlyText(text) {
  return visibleText(text).replace(/[&<>%]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

function plotLayout() {
  return {
    margin: { l: 48, r: 10, t: 8, b: 28 },
    font: { family: "system-ui, sans-serif", size: 11, color: cssValue("--text-soft") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    hoverlabel: { bgcolor: cssValue("--card"), bordercolor: cssValue("--line"), font: { color: cssValue("--text") } },
  };
}

function plotAxis() {
  return { gridcolor: cssValue("--line"), zeroline: false, linecolor: cssValue("--line"), automargin: true };
}

function plotConfig() {
  const modeBarButtons = [["toImage", "resetScale2d"]];
  return { displaylogo: false, responsive: true, modeBarButtons, showTips: false };
}

/** Exponential mean over earlier values, corrected for its start; gaps stay gaps. */
function smoothed(values, amount) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = amount * mean + (1 - amount) * value;
    weight = amount * weight + (1 - amount);
    return mean / weight;
  });
}
