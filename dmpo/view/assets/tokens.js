// The tokens of a completion: shaded by the decoding step that unmasked them, and masked again by the slider.

const FOLDED_TOKENS = 320; // that a card shows at first
const TAIL = 4; // equal tokens at the end, from so many on, are shown as one

/** The spans of a card's tokens. `show(step)`: tokens that are unmasked after this step are shown as masks. */
class Tokens {
  constructor(card, steps) {
    this.card = card;
    this.steps = steps;
    this.step = steps;
    this.pieces = piecesOf(card);
    this.built = 0;
    this.cursor = -1;
    this.strip = element("div", {
      class: "tokens",
      tabindex: 0,
      role: "group",
      "aria-label": "tokens; the left and right arrow keys tell about each",
      onkeydown: (event) => this.#key(event),
      onblur: () => this.#moveCursor(-1),
    });
    this.strip.tokens = this;
    this.spans = [];
    this.#build(FOLDED_TOKENS);
  }

  /** The strip, with a button where it is too long to be shown at once. */
  element() {
    if (this.pieces.length <= FOLDED_TOKENS) return this.strip;
    return folded(this.strip, `show all ${this.card.tokens.length.toLocaleString("en")} tokens`, () => this.#build(Infinity));
  }

  show(step) {
    this.step = step;
    this.spans.forEach((span, index) => this.#dress(span, this.pieces[index]));
  }

  /** What the tooltip says of a token. */
  describe(index) {
    const { text, order, logProb, first, count } = this.pieces[index];
    const lines = [`“${visibleText(text).replace(/\n/g, "↵").replace(/\t/g, "⇥")}”`];
    const number = count > 1 ? `tokens ${first + 1} to ${first + count}` : `token ${first + 1}`;
    lines.push(`${number} of ${this.card.tokens.length + (this.card.more_tokens ?? 0)}`);
    if (order < 0) lines.push("never drawn: it follows the end of the completion");
    else {
      lines.push(`unmasked at step ${order + 1} of ${this.steps}`);
      if (logProb !== null) {
        lines.push(`confidence ${percent(Math.exp(logProb))} (log-probability ${shortNumber(logProb)})`);
      }
    }
    return lines;
  }

  #build(limit) {
    const end = Math.min(limit, this.pieces.length);
    for (; this.built < end; this.built++) {
      const piece = this.pieces[this.built];
      const span = element("span", { class: "token", "data-index": this.built });
      // Early tokens are shaded most; a token that the model was sure of has no confidence shade.
      const late = this.steps > 1 ? Math.max(0, piece.order) / (this.steps - 1) : 0;
      span.style.setProperty("--early", (1 - late).toFixed(3));
      span.style.setProperty("--doubt", piece.logProb === null ? 0 : (1 - Math.exp(Math.min(0, piece.logProb))).toFixed(3));
      span.classList.toggle("undrawn", piece.order < 0);
      this.spans.push(span);
      this.strip.append(span);
      this.#dress(span, piece);
      if (piece.breaks) this.strip.append(element("br"));
    }
  }

  #dress(span, piece) {
    // A token that was never drawn is there when all others are.
    const masked = piece.order < 0 ? this.step < this.steps : piece.order >= this.step;
    span.classList.toggle("masked", masked);
    span.classList.toggle("newest", !masked && this.step < this.steps && piece.order === this.step - 1);
    const text = masked ? "░".repeat(Math.max(1, Math.min(piece.shown.length, 24))) : piece.shown;
    if (span.textContent !== text) span.textContent = text;
  }

  #key(event) {
    const last = this.spans.length - 1;
    const moves = { ArrowLeft: this.cursor - 1, ArrowRight: this.cursor + 1, Home: 0, End: last, Escape: -1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.#moveCursor(event.key === "Escape" ? -1 : Math.max(0, Math.min(last, moves[event.key])));
  }

  #moveCursor(index) {
    this.spans[this.cursor]?.classList.remove("cursor");
    this.cursor = index;
    if (index < 0) return hideTooltip();
    this.spans[index].classList.add("cursor");
    return showTooltip(this.spans[index], this.describe(index));
  }
}

/** The tokens as they are shown: equal tokens at the end become one piece. */
function piecesOf({ tokens, order, log_probs: logProbs }) {
  let end = tokens.length;
  while (end > 1 && tokens[end - 2] === tokens[tokens.length - 1]) end--;
  const tail = tokens.length - end + 1;
  const single = tail >= TAIL ? end - 1 : tokens.length;
  const pieces = [];
  for (let index = 0; index < single; index++) pieces.push(piece(index, 1));
  if (single < tokens.length) pieces.push(piece(single, tail));
  return pieces;

  function piece(first, count) {
    const text = tokens[first];
    let shown = visibleText(text.replace(/\n/g, "↵")) || "∅";
    if (count > 1) shown += ` ×${count}`;
    return { text, shown, first, count, order: order[first], logProb: logProbs[first], breaks: text.includes("\n") };
  }
}

/** The number of decoding steps that the cards of a group took. */
function stepsOf(cards) {
  return Math.max(0, ...cards.filter((card) => card.tokens).map((card) => card.order.reduce((a, b) => Math.max(a, b), -1) + 1));
}

/** The slider over the decoding steps of some strips of tokens, and a button that plays them. */
function decodingSlider(id, steps, strips) {
  const output = element("output", { for: id });
  const slider = element("input", { type: "range", id: null, min: 0, max: steps, step: 1, value: steps, class: "decoding" });
  slider.setAttribute("aria-label", "decoding step");
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶ play";
  };
  const show = () => {
    const step = Number(slider.value);
    for (const strip of strips) strip.show(step);
    output.textContent = step === steps ? `all ${steps} steps` : step === 0 ? "all masked" : `step ${step} of ${steps}`;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  const play = element("button", { type: "button", class: "play" });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === steps) slider.value = 0;
    show();
    play.textContent = "❚❚ pause";
    timer = setInterval(
      () => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === steps || !slider.isConnected) stop();
      },
      Math.max(40, Math.min(600, 5000 / steps)),
    );
    return undefined;
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  stop();
  show();
  return element("div", { class: "slider" }, element("label", {}, "decoding step ", slider), output, play);
}

function showTooltip(target, lines) {
  const tooltip = document.getElementById("tooltip");
  tooltip.replaceChildren(...lines.map((line, index) => element(index ? "div" : "strong", {}, line)));
  tooltip.hidden = false;
  const place = target.getBoundingClientRect();
  const size = tooltip.getBoundingClientRect();
  const left = Math.max(6, Math.min(place.left, document.documentElement.clientWidth - size.width - 6));
  const above = place.top - size.height - 8;
  tooltip.style.left = `${left}px`;
  tooltip.style.top = `${above > 0 ? above : place.bottom + 8}px`;
}

function hideTooltip() {
  document.getElementById("tooltip").hidden = true;
}

/** Tokens tell about themselves when a pointer is over them or a finger taps them. */
function listenToPointer() {
  const tell = (event) => {
    const span = event.target.closest?.(".token");
    if (span) showTooltip(span, span.parentElement.tokens.describe(Number(span.dataset.index)));
    else hideTooltip();
  };
  document.addEventListener("pointerover", tell);
  document.addEventListener("pointerdown", tell);
  document.addEventListener("scroll", hideTooltip, { passive: true });
}
