"use strict";
// Making elements, and text and numbers as a reader can take them. Text goes into the page as text, never as HTML.

/** element("p", {class: "remark", onclick: f}, "text", child): false and null stand for an attribute or child left out. */
function element(tag, attributes, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) created.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) created.setAttribute(name, value === true ? "" : value);
  }
  created.append(...children.flat().filter((child) => child !== false && child != null));
  return created;
}

const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text whose control characters, which a browser hides or obeys, are shown as signs. */
function visibleText(text) {
  return text.replace(INVISIBLE, (character) => {
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "␡" : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

/** A number with four digits: 0.8163, 12.3 k, 1.2e-5, −3. */
function shortNumber(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  let text;
  if (size >= 1e4 && size < 1e7) text = `${Number((value / 1e3).toPrecision(4))} k`;
  else if (size !== 0 && (size >= 1e7 || size < 1e-3)) text = value.toExponential(2).replace("e+", "e");
  else text = String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

function percent(value) {
  return value == null ? "–" : `${(100 * value).toFixed(1)} %`;
}

function seconds(value) {
  if (value < 100) return `${shortNumber(value)} s`;
  if (value < 6000) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
}

/** A control with its label before it. The id makes `state.js` remember its value. */
function labelled(text, control) {
  return element("label", { class: "control", title: control.title || null }, element("span", {}, text), control);
}

function select(id, options, attributes) {
  const chosen = (value) => attributes?.value === value;
  const entries = options.map(([value, text]) => element("option", { value, selected: chosen(value) }, visibleText(text)));
  return element("select", { id, ...attributes }, entries);
}

/** A text that is folded where it is long, with a button that shows all of it. */
function foldedText(text, className, limit = 700) {
  const shown = visibleText(text);
  const block = element("div", { class: `text ${className}`, dir: "auto" }, shown || "(empty)");
  const lines = shown.split("\n").length;
  if (shown.length <= limit && lines <= 14) return block;
  return folded(block, `show all ${shown.length.toLocaleString("en")} characters`);
}

/** An element of which only the top is shown until the button below it is pressed. */
function folded(block, label, onopen) {
  block.classList.add("folded");
  const button = element("button", { type: "button", class: "unfold", "aria-expanded": "false" }, label);
  button.addEventListener("click", () => {
    const open = !block.classList.toggle("folded");
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "show less" : label;
    if (open) onopen?.();
  });
  return element("div", { class: "fold" }, block, button);
}

/** Calls `action` when calls have stopped coming for `delay` milliseconds. */
function afterPause(action, delay = 150) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), delay);
  };
}

/** The text that an element holds as compressed base64. */
async function unpack(id) {
  const holder = document.getElementById(id);
  const packed = holder.textContent;
  holder.remove(); // its memory is worth more than its text
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(packed);
  else {
    const binary = atob(packed);
    bytes = new Uint8Array(binary.length);
    for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index);
  }
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
