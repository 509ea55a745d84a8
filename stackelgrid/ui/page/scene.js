// What is seen of a run at a time: numbers, tree, charts and messages. Events change it, forwards only.

import { RoundCharts } from "./charts.js";
import { make, showNumber } from "./dom.js";
import { NODE_STATES } from "./states.js";
import { Tree } from "./tree.js";

const MOST_MESSAGES = 150;

/** Shows the events of a run in `element`; `onSelect(name)` tells which node was chosen. */
export class Scene {
  constructor(element, onSelect) {
    this.onSelect = onSelect;
    this.waiting = []; // messages for the next frame
    this.why = new Map(); // why a node was missed, the last time
    this.tiles = {
      round: new Tile("Round"),
      residual: new Tile("Residual"),
      answered: new Tile("Homes answered"),
      trouble: new Tile("Nodes in trouble"),
    };
    this.step = make("p", { class: "soft step", role: "status" });
    this.treeBox = make("div", {});
    this.chartBox = make("div", { class: "round-charts" });
    this.log = make("div", { class: "log", role: "log", "aria-label": "Messages, the newest first", tabindex: "0" });
    this.node = make("div", { class: "node-facts" });
    this.side = make("div", { class: "side" });
    element.append(
      make(
        "div",
        { class: "tiles" },
        Object.values(this.tiles).map((tile) => tile.element),
      ),
      make(
        "div",
        { class: "stage" },
        make(
          "div",
          { class: "column" },
          make(
            "section",
            { class: "card", "aria-label": "Nodes" },
            make("div", { class: "card-head" }, make("h2", {}, "Nodes"), this.step),
            this.treeBox,
            this.node,
          ),
          this.side,
          make("section", { class: "card messages", "aria-label": "Messages" }, make("h2", {}, "Messages"), this.log),
        ),
        make(
          "section",
          { class: "card staying", "aria-label": "Price and load" },
          make("h2", {}, "Price and load"),
          this.chartBox,
        ),
      ),
    );
  }

  /** Show the next event. */
  apply(event) {
    if (event.type === "tree") this.begin(event);
    else if (event.type === "node") this.setState(event);
    else if (event.type === "round") this.endRound(event);
    else if (event.type === "inner") this.tree.setInner(event.aggregator, event.inner);
    else if (event.type === "message") this.tell(event);
    else if (event.type === "fault") this.tell({ ...event, level: "fault" });
    else if (event.type === "step")
      this.step.textContent = event.text
        .replace(/^certifying/, "The certificate is computed")
        .replace(/^drawing/, "The report is drawn");
    else if (event.type === "end") this.end(event);
  }

  /** Go back to before the beginning. */
  restart() {
    this.tree?.reset();
    this.charts?.close();
    this.charts = null;
    this.waiting = [];
    this.log.replaceChildren();
    this.step.textContent = "";
    this.why = new Map();
    for (const tile of Object.values(this.tiles)) tile.clear();
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.tree?.close();
    this.charts?.close();
  }

  begin(event) {
    this.plan = event;
    if (!this.tree) {
      this.tree = new Tree(this.treeBox, event.nodes, (name) => this.select(name));
      this.tree.onDraw = () => this.drawNumbers();
    }
    this.chartBox.replaceChildren();
    this.charts = new RoundCharts(this.chartBox, event);
    this.tiles.round.set("0", `at most ${event.max_rounds}`);
  }

  setState(event) {
    this.tree.setState(event.names, event.state);
  }

  endRound(event) {
    for (const [name, why] of Object.entries(event.why ?? {})) this.why.set(name, why);
    this.charts.round(event);
    const sessions = this.plan.sessions.length;
    const within = sessions > 1 ? `session ${event.session} of ${sessions}` : `at most ${this.plan.max_rounds}`;
    this.tiles.round.set(String(event.round), within);
    this.tiles.residual.set(event.residual == null ? "–" : showNumber(event.residual));
    this.tiles.residual.plot(event.session, event.residual);
  }

  end(event) {
    this.step.textContent = "";
    if (event.message) this.tell({ ...event, text: event.message, level: "warning" });
  }

  tell(event) {
    const mark = { warning: "!", fault: "⚡" }[event.level] ?? "";
    this.waiting.unshift(
      make(
        "p",
        { "data-level": event.level },
        make("span", { class: "at soft" }, event.seconds.toFixed(1)),
        make("span", { class: "mark", "aria-hidden": true }, mark),
        make("span", {}, event.text),
      ),
    );
    this.waiting.length = Math.min(this.waiting.length, MOST_MESSAGES);
    this.frame ||= requestAnimationFrame(() => this.drawMessages());
  }

  drawMessages() {
    this.frame = 0;
    this.log.prepend(...this.waiting);
    this.waiting = [];
    while (this.log.children.length > MOST_MESSAGES) this.log.lastChild.remove();
  }

  drawNumbers() {
    const counts = this.tree.countHomes();
    const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
    this.tiles.answered.set(String((counts.answered ?? 0) + (counts.settled ?? 0)), `of ${all}`);
    const troubled = this.tree.countTrouble();
    const states = Object.entries(troubled);
    const words = states.map(([state, count]) => (states.length > 1 ? `${count} ${state}` : state));
    this.tiles.trouble.set(String(Object.values(troubled).reduce((sum, count) => sum + count, 0)), words.join(", "));
    this.drawNode();
  }

  select(name) {
    this.selected = name;
    this.drawNode();
    this.onSelect(name);
  }

  /** Say of the selected node what it is and how it is. */
  drawNode() {
    const node = this.tree.nodes.get(this.selected);
    if (!node) return;
    const homes = node.children.reduce((sum, home) => sum + home.homes, 0);
    const home = node.homes > 1 ? `${node.homes} homes` : "a home";
    const role = {
      leader: "the leader",
      aggregator: `an aggregator with ${homes} homes`,
      home: `${home} of ${node.parent}`,
    }[node.role];
    const text = `${node.name}, ${role}, ${NODE_STATES[node.state]?.[1] ?? node.state}.`;
    const why = this.why.get(node.name);
    const whole = why ? `${text} Last missed a round: ${why}.` : text;
    if (this.node.textContent !== whole) this.node.textContent = whole;
  }
}

/** A number with its name, and a line of what it was before. */
class Tile {
  constructor(name) {
    this.value = make("b", {});
    this.note = make("span", { class: "soft" });
    this.line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.line.setAttribute("viewBox", "0 0 100 24");
    this.line.setAttribute("preserveAspectRatio", "none");
    this.line.setAttribute("aria-hidden", "true");
    this.path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    this.line.append(this.path);
    this.element = make(
      "div",
      { class: "tile card" },
      make("span", { class: "soft" }, name),
      make("p", {}, this.value, " ", this.note),
    );
    this.clear();
  }

  set(value, note = "") {
    if (this.value.textContent !== value) this.value.textContent = value;
    if (this.note.textContent !== note) this.note.textContent = note;
  }

  /** Add to the line, of logarithms; a new `session` begins a new line. */
  plot(session, value) {
    if (session !== this.session) this.past = [];
    this.session = session;
    if (value > 0) this.past.push(Math.log10(value));
    if (this.past.length < 2) return;
    if (!this.line.isConnected) this.element.append(this.line);
    const low = Math.min(...this.past);
    const range = Math.max(...this.past) - low || 1;
    this.path.setAttribute(
      "points",
      this.past
        .map((each, index) => `${(100 * index) / (this.past.length - 1)},${22 - (20 * (each - low)) / range}`)
        .join(" "),
    );
  }

  clear() {
    this.past = [];
    this.set("–");
    this.line.remove();
  }
}
