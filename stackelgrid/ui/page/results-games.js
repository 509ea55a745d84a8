// What came out of a run, of each game in the same form: series over its slots, numbers of its homes, four key numbers.

import { Clock } from "./charts-clock.js";

const LOAD = { key: "load", label: "settled", colour: "--load", width: 2.5 };
const FILLED = { ...LOAD, filled: true };
const BEFORE = (label) => ({ key: "before", label, colour: "--baseline", width: 1.5, dash: [5, 4] });
const BILLS = [
  ["before", "Bill before", "money"],
  ["bill", "Bill", "money"],
];

/**
 * A game: `panels` of the run, `series(outcome)` for them and for the panels `stored` of the energy in batteries;
 * `homes(outcome, hours)`, rows for `columns`; `home(outcome, name)`, the series of one; `tiles(outcome, homes)`, the key
 * numbers as [label, value, unit, value before].
 */
const GAMES = {
  user_oriented: {
    panels: (money) => [
      { title: "Load", unit: "kW", height: 260, fromZero: true, lines: [BEFORE("at the flat price"), FILLED] },
      {
        title: "Price",
        unit: `${money}/kWh`,
        height: 140,
        lines: [{ key: "price", label: "settled", colour: "--price", width: 2.5 }],
      },
    ],
    stored: [
      {
        title: "Batteries, together",
        unit: "kWh",
        height: 130,
        fromZero: true,
        lines: [{ key: "batteries", label: "stored", colour: "--battery", width: 2.5 }],
      },
      {
        title: "Cars, together",
        unit: "kWh",
        height: 130,
        fromZero: true,
        lines: [{ key: "cars", label: "stored", colour: "--car", width: 2.5 }],
      },
    ],
    series: (outcome) => ({
      load: outcome.metered_kw ?? outcome.load_kw,
      before: outcome.baseline_load_kw,
      price: outcome.price,
      batteries: addUp(Object.values(outcome.homes).map((home) => home.storage_kwh)),
      cars: addUp(Object.values(outcome.homes).flatMap((home) => home.ev_kwh ?? [])),
    }),
    columns: BILLS,
    homes: (outcome) =>
      Object.entries(outcome.homes).map(([name, home]) => ({
        name,
        before: home.baseline_bill,
        bill: home.metered_bill ?? home.bill,
      })),
    home: (outcome, name) => {
      const home = outcome.homes[name];
      return {
        load: home.metered_kw ?? home.load_kw,
        pv: home.pv_kw,
        car: home.ev_kw,
        heat: home.heat_pump_kw,
        battery: home.storage_kwh,
        carStored: addUp(home.ev_kwh ?? []),
        room: home.temperature_c?.[0],
      };
    },
    tiles: (outcome, homes) => [
      ["Peak load", outcome.peak_kw, "kW", outcome.baseline_peak_kw],
      ["Peak-to-average ratio", outcome.par, "", outcome.baseline_par],
      ["Homes pay", sum(homes, "bill"), "money", sum(homes, "before")],
      ["Leader’s utility", outcome.leader_utility, "money", outcome.baseline_leader_utility],
    ],
  },
  storage_market: {
    panels: (money) => [
      { title: "Net demand", unit: "MW", height: 260, lines: [BEFORE("before"), LOAD] },
      {
        title: "Price",
        unit: `${money}/MWh`,
        height: 140,
        lines: [
          { key: "without", label: "without the market", colour: "--baseline", width: 1.5, dash: [5, 4] },
          { key: "price", label: "settled", colour: "--price", width: 2.5 },
        ],
      },
    ],
    series: (outcome) => ({
      load: outcome.net_demand_mw,
      before: outcome.baseline_load_mw,
      price: outcome.price,
      without: outcome.price_without,
      batteries: addUp(Object.values(outcome.level_mwh)),
    }),
    stored: [
      {
        title: "Batteries of all DRAs, together",
        unit: "MWh",
        height: 130,
        fromZero: true,
        lines: [{ key: "batteries", label: "stored", colour: "--battery", width: 2.5 }],
      },
    ],
    columns: [
      ["energy", "Energy", "kWh"],
      ["bill", "Bill", "money"],
    ],
    homes: (outcome, hours) =>
      Object.entries(outcome.homes).map(([name, home]) => ({
        name,
        energy: hours * total(home.load_kw),
        bill: home.bill,
      })),
    home: (outcome, name) => {
      const home = outcome.homes[name];
      return { load: home.load_kw, charge: home.charge_kw, sold: home.sold_kw, battery: home.battery_kwh };
    },
    tiles: (outcome, homes) => [
      ["Peak of net demand", outcome.peak_mw, "MW", outcome.baseline_peak_mw],
      ["Peak-to-average ratio", outcome.par, "", outcome.baseline_par],
      ["Homes pay", sum(homes, "bill"), "money"],
      ["Supply cost", outcome.supply_cost, "money", outcome.baseline_supply_cost],
    ],
  },
  prosumer: {
    panels: (money) => [
      { title: "Load of the system", unit: "kW", height: 260, lines: [BEFORE("before"), LOAD] },
      {
        title: "Demand response",
        unit: "kW",
        height: 140,
        fromZero: true,
        lines: [{ key: "response", label: "of all prosumers", colour: "--battery", width: 2.5 }],
      },
      {
        title: "Price paid for it, highest",
        unit: `${money}/kWh`,
        height: 120,
        fromZero: true,
        lines: [{ key: "price", label: "settled", colour: "--price", width: 2.5 }],
      },
    ],
    series: (outcome) => ({
      load: outcome.net_load_kw,
      before: outcome.system_load_kw,
      response: addUp(Object.values(outcome.dr_kw)),
      price: highest(Object.values(outcome.dr_price)),
    }),
    columns: [
      ["response", "Demand response", "kWh"],
      ["bill", "Net cost", "money"],
    ],
    homes: (outcome, hours) =>
      Object.entries(outcome.cost).map(([name, cost]) => ({
        name,
        response: hours * total(outcome.dr_kw[name] ?? []),
        bill: total(cost),
      })),
    home: (outcome, name) => ({
      response: outcome.dr_kw[name],
      others: outcome.others[name],
      price: outcome.dr_price[name],
      pvPrice: outcome.pv_price[name],
    }),
    tiles: (outcome, homes) => [
      ["Peak of the system", Math.max(...outcome.net_load_kw), "kW", Math.max(...outcome.system_load_kw)],
      ["Demand response", sum(homes, "response"), "kWh"],
      ["Prosumers pay", sum(homes, "bill"), "money"],
      ["Utility’s saving", total(outcome.utility_saving), "money"],
    ],
  },
  load_call: {
    panels: null,
    columns: [["called", "Called for", "kWh"], ["shifted", "Shifted", "kWh"], ["reward", "Reward", "money"], ...BILLS],
    homes: (outcome) =>
      Object.entries(outcome.bills).map(([name, bill]) => ({
        name,
        called: outcome.calls_kwh[name],
        shifted: outcome.shifted_kwh[name],
        reward: outcome.rewards[name],
        before: outcome.baseline_bills[name],
        bill,
      })),
    tiles: (outcome, homes) => [
      ["Shifted", outcome.achieved_kwh, `of ${showWhole(outcome.target_kwh)} kWh`],
      ["Homes pay", sum(homes, "bill"), "money", sum(homes, "before")],
      ["Rewards", sum(homes, "reward"), "money"],
      ["Aggregator’s utility", outcome.aggregator_utility, "money"],
    ],
  },
};

/** The lines of a home; a panel is shown where the home has one of them. */
export const HOME_PANELS = (money) => [
  {
    title: "Power",
    unit: "kW",
    height: 190,
    fromZero: true,
    lines: [
      { key: "pv", label: "photovoltaics", colour: "--pv", width: 1.75 },
      { key: "heat", label: "heat pump", colour: "--heat", width: 1.75 },
      { key: "car", label: "car", colour: "--car", width: 1.75 },
      { key: "charge", label: "charged", colour: "--battery", width: 1.75 },
      { key: "sold", label: "sold", colour: "--price", width: 1.75 },
      { key: "others", label: "response of others", colour: "--baseline", width: 1.5, dash: [5, 4] },
      { key: "response", label: "demand response", colour: "--battery", width: 2.5 },
      { ...FILLED, label: "load" },
    ],
  },
  {
    title: "Stored",
    unit: "kWh",
    height: 110,
    fromZero: true,
    lines: [
      { key: "carStored", label: "car", colour: "--car", width: 2 },
      { key: "battery", label: "battery", colour: "--battery", width: 2 },
    ],
  },
  { title: "Room", unit: "°C", height: 90, lines: [{ key: "room", label: "temperature", colour: "--heat", width: 2 }] },
  {
    title: "Price",
    unit: `${money}/kWh`,
    height: 90,
    lines: [
      { key: "pvPrice", label: "for photovoltaics", colour: "--pv", width: 2 },
      { key: "price", label: "for response", colour: "--price", width: 2 },
    ],
  },
];

/** The outcome of a run; of several sessions, the slots that each of them binds, one after the other. */
export class Outcome {
  constructor(run) {
    this.run = run;
    this.game = GAMES[run.game];
    const { outcome, sessions = [] } = run.result;
    this.parts = sessions.length
      ? sessions.map((each, index) => ({ outcome: each.outcome, ...run.sessions[index] }))
      : [{ outcome, ...run.sessions[0], binding: run.slots }];
    this.parts = this.parts.filter((part) => Object.keys(part.outcome ?? {}).length);
    this.first = this.parts[0]?.outcome ?? null;
    this.whole = new Clock(run.slots, run.slot_hours, run.times);
    const times = run.times && this.parts.flatMap(({ first, binding }) => run.times.slice(first, first + binding));
    this.clock = new Clock(times ? times.length : run.slots, run.slot_hours, times);
  }

  /** True where there is something to show; a game of another package has no series here. */
  get isKnown() {
    return Boolean(this.game && this.first);
  }

  get isOfSessions() {
    return this.run.result.sessions?.length > 1;
  }

  get panels() {
    return this.game.panels?.(this.run.money) ?? null;
  }

  /** The series of the run; what was before is of one session alone. */
  get series() {
    const { before, ...series } = this.chain((outcome) => this.game.series(outcome));
    return this.isOfSessions ? series : { before, ...series };
  }

  home(name) {
    return this.chain((outcome) => this.game.home(outcome, name));
  }

  /** The rows of homes. Of several sessions the bills are those of the table of savings, where the run has it. */
  listHomes(savings) {
    if (!this.isOfSessions) return this.game.homes(this.first, this.run.slot_hours);
    const bills = savings ? readBills(savings) : null;
    return this.game.homes(this.first, this.run.slot_hours).map(({ name }) => ({ name, ...bills?.get(name) }));
  }

  listTiles(homes) {
    if (!this.isOfSessions) return this.game.tiles(this.first, homes);
    const { load } = this.series;
    const peak = Math.max(...load);
    return [
      ["Peak load", peak, "kW"],
      ["Peak-to-average ratio", (peak * load.length) / total(load), ""],
      ["Homes pay", sum(homes, "bill"), "money", sum(homes, "before")],
      ["Sessions", this.parts.length, `of ${this.run.sessions.length}`],
    ];
  }

  chain(read) {
    const chained = {};
    for (const { outcome, binding } of this.parts) {
      for (const [key, values] of Object.entries(read(outcome)))
        if (values) (chained[key] ??= []).push(...values.slice(0, binding));
    }
    return chained;
  }
}

function readBills(savings) {
  const column = (start) => Object.entries(savings).find(([name]) => name.startsWith(start))?.[1];
  const [before, bill] = [column("baseline_bill_"), column("bill_")];
  return new Map(savings.home.map((name, row) => [name, { before: before?.[row], bill: bill?.[row] }]));
}

const total = (values) => values.reduce((whole, value) => whole + value, 0);
const showWhole = (value) => value.toLocaleString("en");

/** Add up a number of all homes; undefined where one has none. */
function sum(homes, key) {
  return homes.length && homes.every((home) => Number.isFinite(home[key]))
    ? total(homes.map((home) => home[key]))
    : undefined;
}

function addUp(lists) {
  const known = lists.filter(Boolean);
  return known.length ? known[0].map((_, slot) => total(known.map((list) => list[slot]))) : undefined;
}

function highest(lists) {
  return lists.length ? lists[0].map((_, slot) => Math.max(...lists.map((list) => list[slot]))) : undefined;
}
