// Completions: those of one prompt are cards beside each other. A reader filters, searches and sorts them.

const GROUPS_AT_ONCE = 6;

class Gallery {
  constructor(description, sources) {
    Object.assign(this, description); // id, title, remark, absent, filters, numbers, orders, groups, prompts
    this.sources = sources;
    this.choices = this.filters.map((_, place) => this.#valuesOf(place));
    this.limit = GROUPS_AT_ONCE;
    this.list = element("div", { class: "groups" });
    this.count = element("p", { class: "remark", role: "status" });
    this.more = element("button", { type: "button", class: "more", onclick: () => this.#showMore() });
  }

  section() {
    const section = element("section", { id: this.id }, element("h2", {}, this.title));
    for (const reason of this.absent) section.append(element("p", { class: "absent" }, visibleText(reason)));
    if (this.groups.length === 0) return section;
    if (this.remark) section.append(element("p", { class: "remark" }, this.remark));
    section.append(this.#controls(), this.count, this.list, this.more);
    this.update();
    return section;
  }

  /** Filters and sorts the groups anew, and shows the first of them. */
  update() {
    this.limit = GROUPS_AT_ONCE;
    const keep = this.#filter();
    this.shown = [];
    for (const group of this.groups) {
      const cards = group.cards.filter((card) => keep(card, group));
      if (cards.length) this.shown.push({ group, cards });
    }
    this.#sort();
    this.list.replaceChildren();
    this.#showMore(0);
    const cards = this.shown.reduce((sum, { cards: some }) => sum + some.length, 0);
    const all = this.groups.reduce((sum, group) => sum + group.cards.length, 0);
    const ofAll = cards === all ? "" : ` of ${all.toLocaleString("en")}`;
    this.count.textContent = `${cards.toLocaleString("en")}${ofAll} completions of ${this.shown.length.toLocaleString("en")} prompts`;
  }

  #valuesOf(place) {
    const values = new Set();
    for (const group of this.groups) for (const card of group.cards) values.add(card.labels[place]);
    return [...values];
  }

  #controls() {
    const changed = () => this.update();
    const search = element("input", {
      type: "search",
      id: `${this.id}-search`,
      placeholder: "text of prompt or completion",
      oninput: afterPause(changed),
    });
    this.search = search;
    const controls = element("div", { class: "controls" }, labelled("find", search));
    this.selects = this.filters.map((filter, place) => {
      const values = this.choices[place];
      if (values.length < 2) return null;
      const options = [["", "all"], ...values.map((value) => [`=${value}`, value])];
      const control = select(`${this.id}-${filter.name}`, options, { onchange: changed });
      controls.append(labelled(filter.label, control));
      return control;
    });
    if (this.numbers.some(({ name }) => name === "reward")) controls.append(this.#range(changed));
    const orders = this.orders.map((text, number) => [`order ${number}`, text]);
    this.numbers.forEach(({ label }, place) => {
      orders.push([`high ${place}`, `highest ${label} first`], [`low ${place}`, `lowest ${label} first`]);
    });
    this.sorting = select(`${this.id}-order`, orders, { onchange: changed });
    controls.append(labelled("sort", this.sorting));
    if (this.groups.some((group) => group.cards.some((card) => card.tokens))) {
      const shades = [["order", "order of unmasking"], ["doubt", "doubt (1 − confidence)"], ["none", "none"]];
      const ramp = element("span", { class: "ramp", "aria-hidden": "true" });
      const shade = () => {
        this.list.setAttribute("data-shading", shading.value);
        const [from, to] = { order: ["first", "last"], doubt: ["unsure", "sure"], none: ["", ""] }[shading.value];
        ramp.replaceChildren(from, element("span", { "data-shading": shading.value }), to);
      };
      const shading = select(`${this.id}-shading`, shades, { onchange: shade });
      shade();
      controls.append(labelled("shading", shading), ramp);
    }
    return controls;
  }

  #range(changed) {
    const bound = (word) =>
      element("input", {
        type: "number",
        id: `${this.id}-${word}`,
        step: "any",
        placeholder: word,
        "aria-label": `${word} reward`,
        oninput: afterPause(changed),
      });
    this.least = bound("least");
    this.most = bound("most");
    return element("span", { class: "control" }, element("span", {}, "reward"), this.least, "to", this.most);
  }

  #filter() {
    const words = this.search.value.toLowerCase();
    const chosen = this.selects.map((control) => (control?.value ? control.value.slice(1) : null));
    const reward = this.numbers.findIndex(({ name }) => name === "reward");
    const least = this.least?.value ? Number(this.least.value) : -Infinity;
    const most = this.most?.value ? Number(this.most.value) : Infinity;
    const bounded = least > -Infinity || most < Infinity;
    return (card, group) => {
      if (chosen.some((value, place) => value !== null && card.labels[place] !== value)) return false;
      if (bounded) {
        const value = card.numbers[reward];
        if (value === null || value < least || value > most) return false;
      }
      if (!words) return true;
      return card.text.toLowerCase().includes(words) || this.prompts[group.prompt].toLowerCase().includes(words);
    };
  }

  #sort() {
    const [kind, place] = this.sorting.value.split(" ");
    if (kind === "order") {
      if (place === "1") this.shown.reverse();
      return;
    }
    const sign = kind === "high" ? -1 : 1;
    const key = (card) => (card.numbers[place] === null ? Infinity : sign * card.numbers[place]);
    for (const one of this.shown) {
      one.cards = [...one.cards].sort((a, b) => key(a) - key(b) || 0);
      one.key = key(one.cards[0]);
    }
    this.shown.sort((a, b) => a.key - b.key || 0);
  }

  #showMore(further = GROUPS_AT_ONCE) {
    const from = this.list.children.length;
    this.limit += further;
    const next = this.shown.slice(from, this.limit);
    this.list.append(...next.map((one, index) => this.#group(one, from + index)));
    const left = this.shown.length - this.list.children.length;
    this.more.hidden = left === 0;
    this.more.textContent = `show ${Math.min(GROUPS_AT_ONCE, left)} more of ${left.toLocaleString("en")} prompts`;
  }

  #group({ group, cards }, number) {
    const steps = stepsOf(group.cards); // also of those that a filter hides, so that a step means the same
    const strips = [];
    const shown = cards.map((card) => this.#card(card, group, steps, strips));
    const heading = element("h3", {}, visibleText(group.heading));
    if (group.source !== undefined && this.sources.length > 1) heading.prepend(sourceMark(group.source));
    const text = this.prompts[group.prompt];
    const isShort = text.length <= 60 && !text.includes("\n");
    const prompt = isShort ? element("code", { class: "prompt" }, visibleText(text)) : foldedText(text, "prompt", 600);
    const head = element("div", { class: "group-head" }, element("div", {}, heading, isShort && prompt));
    if (steps > 0) head.append(decodingSlider(`${this.id}-step-${number}`, steps, strips));
    return element("article", { class: "group" }, head, !isShort && prompt, element("div", { class: "cards" }, shown));
  }

  #card(card, group, steps, strips) {
    const top = element("div", { class: "card-top" });
    const { verdict } = card;
    if (verdict != null) {
      top.append(element("span", { class: `verdict ${verdict ? "right" : "wrong"}` }, verdict ? "✓ right" : "✗ wrong"));
    }
    if (card.heading) top.append(element("span", { class: "card-heading" }, visibleText(card.heading)));
    let body;
    if (card.tokens?.length) {
      const tokens = new Tokens(card, steps);
      strips.push(tokens);
      body = tokens.element();
    } else body = foldedText(card.text, "completion");
    const article = element("div", { class: "card" }, top, this.#facts(card, group), body);
    if (card.source !== undefined && this.sources.length > 1) {
      top.prepend(sourceMark(card.source));
    }
    for (const note of card.notes) article.append(element("p", { class: "note" }, visibleText(note)));
    if (card.more_tokens) article.append(element("p", { class: "note" }, `${card.more_tokens} more tokens are left out`));
    return article;
  }

  #facts(card, group) {
    const facts = this.numbers.flatMap(({ name, label, meaning }, place) => {
      const value = card.numbers[place];
      if (value === null) return [];
      const fact = element("div", { class: "fact", title: meaning }, element("dt", {}, visibleText(label)), element("dd", {}, shortNumber(value)));
      if (name === "weight") {
        const largest = Math.max(...group.cards.map((other) => Math.abs(other.numbers[place] ?? 0)));
        const bar = element("span", { class: "bar", "aria-hidden": "true" });
        bar.style.setProperty("--length", largest > 0 ? Math.abs(value) / largest : 0);
        fact.append(bar);
      }
      return [fact];
    });
    return facts.length > 0 && element("dl", { class: "facts" }, facts);
  }
}
