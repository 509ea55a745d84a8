// Charts of power and price over the slots of a run, one below the other with one cursor.

import { make, showNumber } from "./dom.js";
import uPlot from "./vendor/uPlot.js";

const AXIS_WIDTH = 58;
const MARK_WIDTH = 64;
const DATE_WIDTH = 92;
const steps = uPlot.paths.stepped({ align: 1 });
let count = 0;
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Read a colour of the page, as a canvas wants it. */
export function readColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/**
 * Draws lines over slots: `panels` from top to bottom, each {title, unit, height, lines, fromZero}.
 *
 * A line is {key, label, colour, width, dash, alpha, filled}; one without a label is not in the legend. The arrow keys
 * move the cursor; what it is on is written above.
 */
export class SlotCharts {
  constructor(element, clock, panels, name) {
    this.element = element;
    this.clock = clock;
    this.window = [0, clock.slots];
    this.values = {};
    this.slot = null;
    this.key = `slots-${++count}`;
    this.at = make("span", { class: "at soft" });
    this.panels = panels.map((panel) => new Panel(this, panel));
    this.root = make(
      "div",
      {
        class: "slot-charts",
        tabindex: "0",
        role: "slider",
        "aria-label": name,
        "aria-valuemin": "1",
        "aria-valuemax": String(clock.slots),
        "aria-valuenow": "1",
        onkeydown: (event) => this.press(event),
        onblur: () => this.point(null),
      },
      this.at,
      this.panels.map((panel) => panel.element),
    );
    element.append(this.root);
    for (const panel of this.panels) panel.begin();
    this.observer = new ResizeObserver(() => this.panels.forEach((panel) => panel.resize()));
    this.observer.observe(this.root);
    this.recolour = () => this.panels.forEach((panel) => panel.recolour());
    dark.addEventListener("change", this.recolour);
    this.point(null);
  }

  /** Show values by the keys of the lines; a line without values is not drawn. */
  set(values) {
    this.values = values;
    for (const panel of this.panels) panel.draw();
    this.write();
  }

  /** Show the slots from `first` to `last` alone. */
  zoom(first, last) {
    this.window = [first, last];
    for (const panel of this.panels) panel.draw();
  }

  /** True where more than a day is shown. */
  get isLong() {
    return (this.window[1] - this.window[0]) * this.clock.hours > 25;
  }

  press(event) {
    const [first, last] = this.window;
    const move = {
      ArrowRight: 1,
      ArrowUp: 1,
      ArrowLeft: -1,
      ArrowDown: -1,
      PageUp: 4,
      PageDown: -4,
      Home: -Infinity,
      End: Infinity,
    }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const wanted = this.slot === null && Number.isFinite(move) ? first : (this.slot ?? first) + move;
    this.point(Math.min(last - 1, Math.max(first, wanted)), true);
  }

  /** Put the cursor on a slot, or nowhere. `isDrawn` moves the line too, which a pointer does itself. */
  point(slot, isDrawn = false) {
    this.slot = slot;
    this.write();
    if (isDrawn) for (const panel of this.panels) panel.point(slot);
  }

  write() {
    this.at.textContent = this.slot === null ? "" : this.clock.name(this.slot);
    const said = this.panels.flatMap((panel) => panel.write(this.slot));
    this.root.setAttribute("aria-valuenow", String((this.slot ?? this.window[0]) + 1));
    this.root.setAttribute(
      "aria-valuetext",
      this.slot === null ? "No slot chosen" : `${this.clock.name(this.slot)}: ${said.join(", ")}`,
    );
  }

  close() {
    this.observer.disconnect();
    dark.removeEventListener("change", this.recolour);
    for (const panel of this.panels) panel.plot.destroy();
    this.root.remove();
  }
}

class Panel {
  constructor(charts, { title, unit, height, lines, fromZero }) {
    Object.assign(this, { charts, unit, height, lines, fromZero });
    this.shown = lines
      .filter((line) => line.label)
      .toReversed()
      .map((line) => ({ line, value: make("b", {}) }));
    this.legend = this.shown.map(({ line, value }) =>
      make(
        "li",
        {},
        make("i", {
          class: line.dash ? "dashed" : line.width < 2 ? "thin" : line.width > 3 ? "wide" : "",
          style: `--colour: var(${line.colour})`,
          "aria-hidden": true,
        }),
        line.label,
        " ",
        value,
      ),
    );
    this.box = make("div", {});
    this.element = make(
      "div",
      { class: "panel" },
      make(
        "div",
        { class: "panel-head" },
        make("h3", {}, title, make("span", { class: "soft" }, ` ${unit}`)),
        make("ul", { class: "series" }, this.legend),
      ),
      this.box,
    );
  }

  begin() {
    this.readColours();
    const { charts, lines } = this;
    const axis = {
      stroke: () => this.colours.ink,
      grid: { stroke: () => this.colours.grid, width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    const isLast = charts.panels.at(-1) === this;
    const options = {
      width: this.width(),
      height: this.height,
      padding: [8, 16, isLast ? 0 : 8, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false }, sync: { key: charts.key } },
      scales: {
        x: { time: false, range: () => charts.window },
        y: { range: (plot, low, high) => this.span(low, high) },
      },
      axes: [
        {
          ...axis,
          show: true,
          size: isLast ? 26 : 0,
          gap: 6,
          splits: (plot, index, low, high) =>
            charts.clock.mark(low, high, (plot.width - AXIS_WIDTH) / (charts.isLong ? DATE_WIDTH : MARK_WIDTH)),
          values: (plot, splits) => splits.map((slot) => (isLast ? charts.clock.label(slot, charts.isLong) : "")),
        },
        { ...axis, size: AXIS_WIDTH, gap: 6, space: 26, values: (plot, splits) => splits.map(showNumber) },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          paths: steps,
          stroke: () => this.fade(line),
          fill: line.filled ? () => readColour("--band") : undefined,
          fillTo: 0,
          width: line.width ?? 2,
          dash: line.dash,
          points: { show: false },
          spanGaps: false,
        })),
      ],
      hooks: {
        setCursor: [
          (plot) => {
            if (plot.cursor.event == null) return;
            const slot = plot.cursor.left < 0 ? null : Math.floor(plot.posToVal(plot.cursor.left, "x"));
            const [first, last] = charts.window;
            charts.point(slot === null ? null : Math.min(last - 1, Math.max(first, slot)));
          },
        ],
      },
    };
    this.plot = new uPlot(options, this.columns(), this.box);
    this.plot.root.setAttribute("aria-hidden", "true");
  }

  width() {
    return Math.max(200, this.box.clientWidth);
  }

  /** The data as the plot wants them; a last point closes the last slot. */
  columns() {
    const { clock, values } = this.charts;
    const x = Array.from({ length: clock.slots + 1 }, (_, slot) => slot);
    return [
      x,
      ...this.lines.map(({ key }) => (values[key] ? [...values[key], values[key].at(-1)] : x.map(() => null))),
    ];
  }

  span(low, high) {
    if (low === null || low === undefined || !Number.isFinite(low)) return [0, 1];
    const [first, last] = this.fromZero ? [Math.min(0, low), Math.max(0, high)] : [low, high];
    const room = (last - first || Math.abs(last) || 1) * 0.08;
    return [first === 0 && this.fromZero ? 0 : first - room, last + room];
  }

  draw() {
    this.plot.setData(this.columns());
  }

  resize() {
    if (this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: this.height });
  }

  recolour() {
    this.readColours();
    this.plot.redraw(false, true);
  }

  readColours() {
    this.colours = { ink: readColour("--ink-soft"), grid: readColour("--grid-line") };
    for (const { colour } of this.lines) this.colours[colour] = readColour(colour);
  }

  fade({ colour, alpha }) {
    const whole = this.colours[colour];
    return alpha === undefined
      ? whole
      : whole +
          Math.round(255 * alpha)
            .toString(16)
            .padStart(2, "0");
  }

  point(slot) {
    const left = slot === null ? -10 : this.plot.valToPos(slot + 0.5, "x");
    this.plot.setCursor({ left, top: 10 }, false);
  }

  /** Write the values at the cursor into the legend; give them in words. */
  write(slot) {
    return this.shown
      .flatMap(({ line, value }) => {
        const number = slot === null ? undefined : this.charts.values[line.key]?.[slot];
        value.textContent = number === undefined || number === null ? "" : showNumber(number);
        return value.textContent && `${line.label} ${value.textContent} ${this.unit}`;
      })
      .filter(Boolean);
  }
}
