// The tree of a run: leader, aggregators and homes, each in the colour and with the letter of its state.

import { make } from "./dom.js";
import { NODE_STATES } from "./states.js";

const TROUBLE = ["late", "held", "excluded", "quarantined", "stalled", "offline", "crashed"];
const HAS_ANSWERED = ["answered", "settled"];
const MOST_LINES = 40;
/** The least width of an aggregator with its homes, and how far lines stay from the middle of a gap, pixels. */
const BRANCH_WIDTH = 136;
const LINE_OFFSET = 3;

/** Draws the nodes of the `tree` event; `onSelect(name)` tells which one was chosen. */
export class Tree {
  constructor(element, nodes, onSelect) {
    this.onSelect = onSelect;
    this.nodes = new Map(nodes.map((node) => [node.name, { ...node, state: "starting", button: null, children: [] }]));
    for (const node of this.nodes.values()) this.nodes.get(node.parent)?.children.push(node);
    this.changed = new Set();
    this.build(element);
    // Not within the observer: another number of columns changes the height that it observes.
    this.resizing = new ResizeObserver(() => (this.placing ||= requestAnimationFrame(() => this.place())));
    this.resizing.observe(this.element);
    for (const name of this.nodes.keys()) this.changed.add(name);
    this.draw();
  }

  /** Note the state of nodes; they are drawn with the next frame. */
  setState(names, state) {
    for (const name of names) {
      const node = this.nodes.get(name);
      if (node === undefined || node.state === state) continue;
      node.state = state;
      this.changed.add(name);
    }
    if (this.changed.size && !this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  /** Note the round that an aggregator has played with its homes, where it plays several. */
  setInner(name, inner) {
    const node = this.nodes.get(name);
    if (node === undefined || inner === node.inner) return;
    node.inner = inner;
    drawProgress(node);
  }

  /** Set all nodes back, as before the beginning. */
  reset() {
    for (const node of this.nodes.values()) node.inner = 0;
    this.setState(this.nodes.keys(), "starting");
  }

  /** Select a node. */
  select(name, { focus = false } = {}) {
    const node = this.nodes.get(name);
    if (node === undefined) return;
    const before = this.nodes.get(this.selected);
    before.button.tabIndex = -1;
    before.button.removeAttribute("aria-current");
    this.selected = name;
    node.button.tabIndex = 0;
    node.button.setAttribute("aria-current", "true");
    if (focus) node.button.focus();
    this.onSelect(name);
  }

  /** Count homes by state. */
  countHomes() {
    return this.count((node) => node.homes);
  }

  /** Count the nodes that are late, missing or broken, by state. */
  countTrouble() {
    return this.count((node) => (TROUBLE.includes(node.state) ? 1 : 0));
  }

  count(weigh) {
    const counts = {};
    for (const node of this.nodes.values())
      if (weigh(node)) counts[node.state] = (counts[node.state] ?? 0) + weigh(node);
    return counts;
  }

  /** End what goes on behind it. */
  close() {
    cancelAnimationFrame(this.frame);
    cancelAnimationFrame(this.placing);
    this.resizing.disconnect();
  }

  build(element) {
    const homes = [...this.nodes.values()].filter((node) => node.role === "home").length;
    const [leader] = [...this.nodes.values()].filter((node) => node.role === "leader");
    this.lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.lines.setAttribute("aria-hidden", "true");
    this.legend = make("ul", { class: "legend", "aria-label": "States of the homes" });
    this.branches = make(
      "div",
      { class: "branches" },
      leader.children.map((node) => this.makeBranch(node)),
    );
    this.element = make(
      "div",
      {
        class: "tree",
        "data-size": homes > 300 ? "small" : homes > 90 ? "medium" : "large",
        onkeydown: (event) => this.move(event),
        onclick: (event) => this.click(event),
      },
      this.lines,
      make("div", { class: "top" }, this.makeButton(leader, "leader")),
      this.branches,
    );
    element.replaceChildren(this.element, this.legend);
    this.place();
    // Tab comes to one node, and the arrow keys go on from there.
    leader.button.tabIndex = 0;
    this.selected = leader.name;
  }

  makeButton(node, kind) {
    // A bare text is laid out much faster than an element, and there may be a thousand homes.
    node.glyph = kind === "home" ? document.createTextNode("") : make("span", { class: "glyph", "aria-hidden": true });
    node.words = kind !== "home" && make("span", { class: "words" });
    node.button = make(
      "button",
      { type: "button", class: `node ${kind}`, "data-node": node.name, tabindex: "-1" },
      node.glyph,
      kind !== "home" && make("span", { class: "name" }, node.name),
      node.words,
    );
    return node.button;
  }

  makeBranch(node) {
    node.bar = make("i");
    node.count = make("span", { class: "count" });
    return make(
      "section",
      { class: "branch", "aria-label": `${node.name} and its homes` },
      this.makeButton(node, "aggregator"),
      make("div", { class: "progress" }, make("span", { class: "track", "aria-hidden": true }, node.bar), node.count),
      make(
        "div",
        { class: "homes" },
        node.children.map((home) => this.makeButton(home, "home")),
      ),
    );
  }

  draw() {
    this.frame = 0;
    const parents = new Set();
    for (const name of this.changed) {
      const node = this.nodes.get(name);
      const [letter, words] = NODE_STATES[node.state] ?? ["?", node.state];
      node.button.dataset.state = node.state;
      node.glyph.textContent = letter;
      node.button.setAttribute("aria-label", `${node.name} ${words}`);
      if (node.words) node.words.textContent = shorten(words);
      if (node.role === "home") parents.add(this.nodes.get(node.parent));
      if (node.line) node.line.dataset.state = node.state;
    }
    this.changed.clear();
    for (const node of parents) drawProgress(node);
    this.drawLegend();
    this.onDraw?.();
  }

  drawLegend() {
    const counts = this.countHomes();
    const text = JSON.stringify(counts);
    if (text === this.counted) return;
    this.counted = text;
    this.legend.replaceChildren(
      ...Object.entries(NODE_STATES)
        .filter(([state]) => counts[state])
        .map(([state, [letter, words]]) =>
          make(
            "li",
            {},
            make("span", { class: "node home sample", "data-state": state, "aria-hidden": true }, letter),
            make("b", {}, String(counts[state])),
            ` ${shorten(words)}`,
          ),
        ),
    );
  }

  /** Place the aggregators in rows as even as can be: four are one row, or two of two. */
  place() {
    this.placing = 0;
    const count = this.branches.children.length;
    const most = Math.max(1, Math.floor(this.branches.clientWidth / BRANCH_WIDTH));
    const columns = Math.ceil(count / Math.ceil(count / most));
    this.branches.style.setProperty("--columns", columns);
    this.drawLines(columns);
  }

  drawLines(columns) {
    const [leader] = this.nodes.values();
    const box = this.element.getBoundingClientRect();
    const from = leader.button.getBoundingClientRect();
    const x = from.left + from.width / 2 - box.left;
    const y = from.bottom - box.top;
    this.lines.replaceChildren();
    if (leader.children.length > MOST_LINES) return;
    const places = leader.children.map((node) => {
      const place = node.button.parentElement.getBoundingClientRect();
      const [left, top] = [place.left - box.left, place.top - box.top];
      return { left, right: left + place.width, middle: left + place.width / 2, top, bottom: top + place.height };
    });
    for (const [index, node] of leader.children.entries()) {
      const to = places[index];
      let path = `M${x} ${y}`;
      if (index < columns || columns === 1) path += bend(x, y, to.middle, to.top);
      else {
        // Through the gap beside it that is nearer to the leader, then down to its row.
        const column = index % columns;
        const isLeft = column === columns - 1 || (column > 0 && to.middle > x);
        const beside = places[isLeft ? column - 1 : column + 1];
        const gap = isLeft ? (beside.right + to.left) / 2 + LINE_OFFSET : (to.right + beside.left) / 2 - LINE_OFFSET;
        const above = places[index - columns].bottom;
        path += `${bend(x, y, gap, places[0].top)}V${above}${bend(gap, above, to.middle, to.top)}`;
      }
      node.line = document.createElementNS("http://www.w3.org/2000/svg", "path");
      node.line.setAttribute("d", path);
      node.line.dataset.state = node.state;
      this.lines.append(node.line);
    }
  }

  click(event) {
    const button = event.target.closest("[data-node]");
    if (button) this.select(button.dataset.node);
  }

  /** Go from node to node: left and right to the next, up and down to the row above and below. */
  move(event) {
    const here = event.target.closest("[data-node]");
    if (!here || event.altKey || event.ctrlKey || event.metaKey) return;
    const buttons = [...this.element.querySelectorAll("[data-node]")];
    const index = buttons.indexOf(here);
    const steps = {
      ArrowLeft: buttons[index - 1],
      ArrowRight: buttons[index + 1],
      Home: buttons[0],
      End: buttons.at(-1),
    };
    let next = steps[event.key];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") next = findNear(buttons, here, event.key === "ArrowDown");
    else if (!(event.key in steps)) return;
    event.preventDefault();
    if (next) this.select(next.dataset.node, { focus: true });
  }
}

/** Draw on from a point to one below it, upright at both. */
function bend(x, y, tx, ty) {
  return `C${x} ${(y + ty) / 2} ${tx} ${(y + ty) / 2} ${tx} ${ty}`;
}

/** "is held: counts with its last answer" is "held". */
function shorten(words) {
  return words.split(/[,:]/)[0].replace(/^(is|has) /, "");
}

function drawProgress(node) {
  const count = (homes) => homes.reduce((sum, home) => sum + home.homes, 0);
  const all = count(node.children);
  const answered = count(node.children.filter((home) => HAS_ANSWERED.includes(home.state)));
  node.bar.style.transform = `scaleX(${all ? answered / all : 0})`;
  const inner = node.inner > 1 ? `, inner round ${node.inner}` : "";
  node.count.textContent = `${answered} of ${all}${inner}`;
}

/** Find the button of the nearest row below or above, the one that begins most nearly in the same column. */
function findNear(buttons, here, isBelow) {
  const from = here.getBoundingClientRect();
  let best = null;
  let least = Infinity;
  for (const button of buttons) {
    const box = button.getBoundingClientRect();
    const distance = isBelow ? box.top - from.bottom : from.top - box.bottom;
    if (distance < -1) continue;
    const whole = distance * 3 + Math.abs(box.left - from.left);
    if (whole < least) [best, least] = [button, whole];
  }
  return best;
}
