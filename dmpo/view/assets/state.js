// What the reader has chosen and where the reader has scrolled to survive a reload of the page.

const STATE_KEY = `dmpo view ${location.pathname}`;

function rememberState() {
  const controls = {};
  for (const control of document.querySelectorAll("input[id], select[id]")) {
    controls[control.id] = control.type === "checkbox" ? control.checked : control.value;
  }
  const open = {};
  for (const details of document.querySelectorAll("details[id]")) open[details.id] = details.open;
  try {
    sessionStorage.setItem(STATE_KEY, JSON.stringify({ controls, open, scroll: window.scrollY }));
  } catch {
    // A browser that stores nothing starts the page at its top.
  }
}

function restoreState() {
  let state = null;
  try {
    state = JSON.parse(sessionStorage.getItem(STATE_KEY));
  } catch {
    return;
  }
  if (!state) return;
  for (const [id, open] of Object.entries(state.open)) {
    const details = document.getElementById(id);
    if (details) details.open = open;
  }
  for (const [id, value] of Object.entries(state.controls)) {
    const control = document.getElementById(id);
    if (!control) continue;
    const before = control.type === "checkbox" ? control.checked : control.value;
    if (before === value) continue;
    if (control.type === "checkbox") control.checked = value;
    else control.value = value;
    if (control.tagName === "SELECT" && control.selectedIndex < 0) control.value = before;
    else control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
  }
  const scroll = () => window.scrollTo({ top: state.scroll, behavior: "instant" });
  scroll();
  setTimeout(scroll, 200); // filters have drawn their lists by now
}

/** Reloads the page while a run goes on, if the reader asks for it. */
function reloadControls() {
  const every = element("input", { type: "checkbox", id: "reload-by-itself" });
  let timer = 0;
  every.addEventListener("input", () => {
    clearInterval(timer);
    if (every.checked) timer = setInterval(() => location.reload(), 10_000);
  });
  return element(
    "span",
    { class: "reload" },
    element("button", { type: "button", onclick: () => location.reload() }, "Reload"),
    element("label", {}, every, " every 10 s"),
  );
}
