// Price and load as they bend round by round, and the residual over the rounds.

import { Clock } from "./charts-clock.js";
import { readColour, SlotCharts } from "./charts-slots.js";
import { make, showNumber } from "./dom.js";
import uPlot from "./vendor/uPlot.js";

const PAST = 7;

/** What each game shows of a round: panels of keys of a `round` event. The first line of a panel bends. */
const SHOWN = {
  user_oriented: (money) => [
    {
      title: "Load",
      unit: "kW",
      height: 210,
      fromZero: true,
      lines: [
        ["load_kw", "this round", "--load"],
        ["baseline_load_kw", "at the flat price", "--baseline"],
      ],
    },
    { title: "Price", unit: `${money}/kWh`, height: 130, lines: [["price", "this round", "--price"]] },
  ],
  storage_market: (money) => [
    {
      title: "Net demand",
      unit: "MW",
      height: 210,
      lines: [
        ["net_demand_mw", "this round", "--load"],
        ["first", "first round", "--baseline"],
      ],
    },
    { title: "Price", unit: `${money}/MWh`, height: 130, lines: [["price", "this round", "--price"]] },
  ],
  prosumer: (money) => [
    { title: "Demand response", unit: "kW", height: 170, fromZero: true, lines: [["dr_kw", "this round", "--load"]] },
    {
      title: "Photovoltaics and load",
      unit: "kW",
      height: 150,
      fromZero: true,
      lines: [
        ["pv_kw", "photovoltaics", "--pv"],
        ["load_kw", "load", "--baseline"],
      ],
    },
    {
      title: "Saved and earned",
      unit: money,
      height: 130,
      fromZero: true,
      lines: [
        ["utility_saving", "utility's saving", "--price"],
        ["provider_profit", "providers' profit", "--battery"],
      ],
    },
  ],
};

/** Shows the rounds of a run in `element`; `tree` is the run's first event. */
export class RoundCharts {
  constructor(element, tree) {
    this.element = element;
    this.tree = tree;
    this.clock = new Clock(tree.slots, tree.slot_hours, tree.times);
    this.rounds = [];
    this.frame = 0;
    this.title = make("p", { class: "soft" }, "No round has ended yet.");
    this.curves = make("div", {});
    this.residuals = make("div", { class: "panel" });
    element.append(this.title, this.curves, this.residuals);
  }

  /** Add a finished round. */
  round(event) {
    this.rounds.push(event);
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    const last = this.rounds.at(-1);
    const sessions = this.tree.sessions.length;
    this.title.textContent =
      `After round ${last.round}` + (sessions > 1 ? `, session ${last.session} of ${sessions}` : "");
    if (last.session !== this.session) this.begin(last.session);
    const within = this.rounds.filter((event) => event.session === last.session);
    if (this.charts) this.charts.set(this.list(within));
    else if (last.shifted_kwh !== undefined) this.showCalls(last);
    if (this.rounds.length > 1) this.residual ??= new Residual(this.residuals);
    this.residual?.set(this.rounds);
  }

  /** Begin with the slots of a session. */
  begin(number) {
    this.session = number;
    this.charts?.close();
    this.charts = null;
    const panels = SHOWN[this.tree.game]?.(this.tree.money);
    const { first, slots } = this.tree.sessions[number - 1] ?? { first: 0, slots: this.tree.slots };
    if (panels)
      this.charts = new SlotCharts(
        this.curves,
        this.clock.cut(first, slots),
        panels.map(addPast),
        "Slots of the last round",
      );
  }

  /** List the values of the last round, and of those before it. */
  list(rounds) {
    const values = { ...rounds.at(-1) };
    if (rounds.length > 1) values.first = rounds[0].net_demand_mw;
    for (const key of ["load_kw", "price", "net_demand_mw", "dr_kw", "pv_kw", "utility_saving"]) {
      for (let ago = 1; ago <= PAST; ago++) values[`${key} ${ago}`] = rounds.at(-1 - ago)?.[key];
    }
    return values;
  }

  /** Show what was called for and shifted, where a round has no slots. */
  showCalls({ target_kwh, called_kwh, shifted_kwh }) {
    const most = Math.max(target_kwh, called_kwh, shifted_kwh) || 1;
    const bar = (name, value, colour) =>
      make(
        "li",
        {},
        make("span", {}, name),
        make("i", { "aria-hidden": true, style: `width: ${(100 * value) / most}%; background: var(${colour})` }),
        make("b", {}, `${showNumber(value)} kWh`),
      );
    this.curves.replaceChildren(
      make(
        "ul",
        { class: "bars" },
        bar("Target", target_kwh, "--baseline"),
        bar("Called for", called_kwh, "--price"),
        bar("Shifted", shifted_kwh, "--load"),
      ),
    );
  }

  /** End what goes on behind the charts. */
  close() {
    cancelAnimationFrame(this.frame);
    this.charts?.close();
    this.residual?.close();
  }
}

/** Put the rounds before behind the first line of a panel, the older the fainter. */
function addPast(panel) {
  const [first, ...others] = panel.lines.map(([key, label, colour], index) => ({
    key,
    label,
    colour,
    width: index ? 1.5 : 2.5,
    dash: colour === "--baseline" ? [5, 4] : undefined,
  }));
  const past = Array.from({ length: PAST }, (_, index) => ({
    key: `${first.key} ${PAST - index}`,
    colour: first.colour,
    width: 1.25,
    alpha: 0.1 + (0.35 * index) / PAST,
  }));
  return { ...panel, lines: [...past, ...others, first] };
}

/** The residual over the rounds, on a logarithmic scale; what is 0 stands on the ground, what is not known is left out. */
class Residual {
  constructor(element) {
    this.element = element;
    this.box = make("div", {});
    element.append(
      make(
        "div",
        { class: "panel-head" },
        make("h3", {}, "Residual", make("span", { class: "soft" }, " by round, relative")),
      ),
      this.box,
    );
    const ink = () => readColour("--ink-soft");
    const axis = {
      stroke: ink,
      grid: { stroke: () => readColour("--grid-line"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    this.plot = new uPlot(
      {
        width: Math.max(200, element.clientWidth),
        height: 120,
        padding: [8, 12, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { time: false, range: (plot, low, high) => [low - 0.3, Math.max(high, low + 5) + 0.3] },
          y: { range: (plot, low, high) => [this.ground, Math.max(0.1, Math.ceil(high))] },
        },
        axes: [
          { ...axis, size: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
          {
            ...axis,
            size: 58,
            gap: 6,
            space: 26,
            splits: () => this.mark(),
            values: (plot, splits) =>
              splits.map((each) =>
                each === this.ground ? "0" : 10 ** each >= 0.01 ? String(10 ** each) : `1e${each}`,
              ),
          },
        ],
        series: [
          {},
          {
            stroke: () => readColour("--accent"),
            width: 2,
            points: { show: true, size: 5, fill: () => readColour("--accent") },
          },
        ],
      },
      [[], []],
      this.box,
    );
    this.plot.root.setAttribute("aria-hidden", "true");
    this.observer = new ResizeObserver(() =>
      this.plot.setSize({ width: Math.max(200, element.clientWidth), height: 120 }),
    );
    this.observer.observe(element);
    this.recolour = () => this.plot.redraw(false, true);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.recolour);
  }

  set(rounds) {
    const residuals = rounds.map((event, index) => (hasCompared(rounds, index) ? event.residual : null));
    const known = residuals.filter((residual) => residual > 0).map(Math.log10);
    this.ground = Math.floor(Math.min(0, ...known)) - 1;
    const powers = residuals.map((residual) => (residual > 0 ? Math.log10(residual) : residual === 0 ? this.ground : null));
    this.plot.setData([rounds.map((event) => event.round), powers]);
  }

  /** Some powers of ten from the ground to 1. */
  mark() {
    const step = Math.ceil(-this.ground / 3);
    return Array.from({ length: Math.floor(-this.ground / step) + 1 }, (_, index) => this.ground + index * step);
  }

  close() {
    this.observer.disconnect();
    matchMedia("(prefers-color-scheme: dark)").removeEventListener("change", this.recolour);
    this.plot.destroy();
  }
}

/** Tell whether a round's residual says something: a session that goes on after a first 0 had nothing to compare. */
function hasCompared(rounds, index) {
  const { session, residual } = rounds[index];
  const isFirst = rounds[index - 1]?.session !== session;
  const goesOn = rounds[index + 1]?.session === session;
  return residual !== 0 || !isFirst || !goesOn;
}
