// Builds the page from its content. plotly.js is unpacked after all text is there to be read.

function header(content, sections) {
  const running = content.sources.some((source) => source.is_running);
  const states = content.kind === "runs" ? content.sources.map((source) => source.status) : [];
  const status = states.length === 1 ? states[0] : states.length ? `${states.length} runs` : "results of an evaluation";
  const links = sections.map((section) => element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
  document.getElementById("top").append(
    element("h1", {}, visibleText(content.title)),
    element("p", { class: "status", "data-running": String(running) }, status),
    ...(running ? [reloadControls()] : []),
    element("nav", { "aria-label": "sections" }, links),
  );
}

async function build() {
  if (!("DecompressionStream" in window)) throw new Error("this browser is too old for this page: it has no DecompressionStream");
  const content = JSON.parse(await unpack("packed-content"));
  const sections = [];
  const drawers = [];
  const galleries = content.galleries.map((gallery) => new Gallery(gallery, content.sources));
  if (content.kind === "runs") {
    const curves = new Curves(content.curves, content.sources);
    sections.push(overviewSection(content.sources), curves.section());
    sections.push(...galleries.map((gallery) => gallery.section()));
    sections.push(settingsSection(content.settings, content.sources), phasesSection(content.phases, content.sources));
    drawers.push((plotly) => curves.start(plotly));
  } else {
    const accuracies = accuracySection(content.cells, content.sources);
    sections.push(accuracies.section, ...galleries.map((gallery) => gallery.section()));
    drawers.push(accuracies.draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => accuracies.draw(window.Plotly));
  }
  header(content, sections);
  const remarks = content.remarks.map((remark) => element("li", {}, visibleText(remark)));
  const main = document.getElementById("main");
  if (remarks.length) main.append(element("ul", { class: "remarks", "aria-label": "remarks" }, remarks));
  main.append(...sections, element("footer", {}, `Written ${content.written} by dmpo view. This page loads nothing from the network.`));
  listenToPointer();
  restoreState();
  addEventListener("pagehide", rememberState);
  document.documentElement.dataset.ready = "yes";
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))); // the text is painted first
  const script = element("script", {}, await unpack("packed-plotly"));
  document.head.append(script); // runs at once; the policy of the page knows its digest
  for (const draw of drawers) draw(window.Plotly);
  document.documentElement.dataset.drawn ??= "yes";
}

build().catch((error) => {
  document.getElementById("main").append(element("p", { class: "absent", role: "alert" }, `This page cannot be shown: ${error.message}`));
  throw error;
});
