// What came out of a run: key numbers, load over price, batteries, bills home by home, the certificate, downloads.

import { get, locate, locateFile } from "./api.js";
import { nameDate } from "./charts-clock.js";
import { SlotCharts } from "./charts-slots.js";
import { make, showNumber } from "./dom.js";
import { HOME_PANELS, Outcome } from "./results-games.js";

/** Show the results of a run that has ended, as `GET /runs/ID` has it. Gives a function that ends it. */
export async function showResults(element, run) {
  if (!run.result) {
    element.append(make("p", { class: "notice bad" }, run.message || "This run has no result."), makeDownloads(run));
    return null;
  }
  const outcome = new Outcome(run);
  const savings =
    outcome.isKnown && outcome.isOfSessions && run.files.includes("tables/savings.parquet")
      ? await get(locate(run.id, "tables", "savings"))
      : null;
  const charts = [];
  const ends = [() => charts.forEach((chart) => chart.close())];
  element.append(makeVerdict(run));
  if (outcome.isKnown) {
    const homes = outcome.listHomes(savings);
    element.append(makeTiles(outcome.listTiles(homes), run.money));
    if (outcome.panels) drawSlots(element, outcome, charts);
    if (outcome.panels && outcome.isOfSessions) ends.push(drawSessions(element, outcome));
    element.append(drawHomes(outcome, homes, charts));
  }
  element.append(make("div", { class: "halves" }, makeCertificate(run), makeKeyFigures(run) ?? ""), makeDownloads(run));
  return () => ends.forEach((end) => end());
}

// --- key numbers ---

/** What happened, and what the certificate says of it. */
function makeVerdict(run) {
  const { judged, failed } = judge(run);
  const words = !judged.length
    ? "No certificate"
    : failed.length
      ? "Certificate: " + failed.map((check) => check.label).join(", ") + (failed.length > 1 ? " fail" : " fails")
      : run.partly_certified || "Certified";
  const mark = failed.length ? " fails" : judged.length && !run.partly_certified ? " holds" : "";
  return make("p", { class: "verdict" }, run.verdict, " ", make("span", { class: `chip${mark}` }, words));
}

/** The four numbers, each with what it was before. */
function makeTiles(tiles, money) {
  return make(
    "div",
    { class: "tiles" },
    tiles.map(([label, value, unit, before]) =>
      make(
        "div",
        { class: "tile result card" },
        make("span", { class: "soft" }, label),
        make(
          "p",
          {},
          make("b", {}, value === undefined || value === null ? "not known" : showFigure(value)),
          " ",
          make("span", { class: "soft" }, unit === "money" ? money : unit),
        ),
        make("p", { class: "soft was" }, showChange(before, value)),
      ),
    ),
  );
}

/** Write what a number was before, and by how much it has changed. */
export function showChange(before, value) {
  if (!Number.isFinite(before) || !Number.isFinite(value)) return "";
  const share = before > 0 ? ` (${showShare(value / before - 1)})` : "";
  return `before ${showFigure(before)}${share}`;
}

export function showShare(share) {
  const size = Math.abs(100 * share);
  return `${share < 0 ? "−" : "+"}${size.toFixed(size < 0.1 ? 2 : size < 10 ? 1 : 0)} %`;
}

/** Write a key number: no decimals where it is large. */
export function showFigure(value) {
  return showNumber(Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en").replace("-", "−") : value);
}

function makeKeyFigures(run) {
  if (!run.key_figures.length) return null;
  const rows = run.key_figures.map(({ label, value }) => [make("dt", {}, label), make("dd", {}, value)]);
  return make(
    "section",
    { class: "card", "aria-label": "Key figures" },
    make("h2", {}, "Key figures"),
    make("dl", { class: "figures" }, rows),
  );
}

// --- over the slots ---

function drawSlots(element, outcome, charts) {
  const body = make("div", {});
  const card = make(
    "section",
    { class: "card", "aria-label": "Load and price" },
    make("h2", {}, "Load and price"),
    body,
  );
  element.append(card);
  const days = listDays(outcome.clock);
  if (days.length > 1) card.append(makeDayCursor(days, outcome.clock.slots, charts));
  charts.push(
    fill(
      new SlotCharts(body, outcome.clock, keepKnown(outcome.panels, outcome.series), "Slots of the run"),
      outcome.series,
    ),
  );
  const stored = keepKnown(outcome.game.stored ?? [], outcome.series);
  if (!stored.length) return;
  const box = make("div", {});
  element.append(
    make(
      "section",
      { class: "card", "aria-label": "Stored energy" },
      make("h2", {}, "Stored energy, at the end of each slot"),
      box,
    ),
  );
  charts.push(fill(new SlotCharts(box, outcome.clock, stored, "Slots of the stored energy"), outcome.series));
}

/** Keep the panels and lines that have values. */
function keepKnown(panels, series) {
  return panels
    .map((panel) => ({ ...panel, lines: panel.lines.filter(({ key }) => series[key]) }))
    .filter((panel) => panel.lines.length);
}

function fill(chart, values) {
  chart.set(values);
  return chart;
}

/** List the dates of a run with the slots of each. */
function listDays({ times }) {
  const days = [];
  (times ?? []).forEach((time, slot) => {
    if (days.at(-1)?.date !== time.slice(0, 10)) days.push({ date: time.slice(0, 10), first: slot });
    days.at(-1).last = slot + 1;
  });
  return days;
}

/** A cursor over the days of a run: all charts show the day that it is on, or all of them. */
function makeDayCursor(days, slots, charts) {
  const names = [`all ${days.length} days`, ...days.map(({ date }) => nameDate(date))];
  return makeCursor("day", names, (place) => {
    const day = days[place - 1];
    for (const chart of charts) chart.zoom(day?.first ?? 0, day?.last ?? slots);
  });
}

/** Show what a session has looked ahead to, and a cursor over the sessions. Gives a function that ends it. */
function drawSessions(element, outcome) {
  const box = make("div", {});
  let chart = null;
  const show = (place) => {
    const { outcome: planned, first, slots } = outcome.parts[place];
    chart?.close();
    const series = outcome.game.series(planned);
    chart = fill(
      new SlotCharts(box, outcome.whole.cut(first, slots), keepKnown(outcome.panels, series), "Slots of the session"),
      series,
    );
  };
  const { length } = outcome.run.sessions;
  const names = outcome.parts.map(
    ({ number, first, slots, binding }) =>
      `${number} of ${length}, from ${outcome.whole.nameBegin(first)}: ${binding} of its ${slots} slots bind`,
  );
  element.append(
    make(
      "section",
      { class: "card", "aria-label": "Sessions" },
      make("h2", {}, "What a session planned"),
      makeCursor("session", names, show),
      box,
    ),
  );
  show(0);
  return () => chart.close();
}

/** A slider over places that have names, with a button to either side. */
function makeCursor(what, names, onMove) {
  const shown = make("output", {}, names[0]);
  const slide = make("input", {
    type: "range",
    min: "0",
    max: String(names.length - 1),
    value: "0",
    "aria-label": what[0].toUpperCase() + what.slice(1),
    "aria-valuetext": names[0],
  });
  const move = () => {
    shown.textContent = names[slide.value];
    slide.setAttribute("aria-valuetext", names[slide.value]);
    onMove(Number(slide.value));
  };
  const step = (by) => {
    slide.value = Number(slide.value) + by;
    move();
  };
  slide.addEventListener("input", move);
  return make(
    "div",
    { class: "cursor" },
    make("button", { type: "button", "aria-label": `The ${what} before`, onclick: () => step(-1) }, "‹"),
    slide,
    make("button", { type: "button", "aria-label": `The next ${what}`, onclick: () => step(1) }, "›"),
    shown,
  );
}

// --- homes ---

function drawHomes(outcome, homes, charts) {
  const { money } = outcome.run;
  if (!homes.length)
    return make(
      "p",
      { class: "notice warn" },
      "No home has reported what it does: homes act on a settlement, and none reached them.",
    );
  const columns = outcome.game.columns.filter(([key]) => homes.some((home) => home[key] !== undefined));
  if (!columns.length)
    return make(
      "p",
      { class: "notice" },
      "This run has no table of savings, which has the bills of several sessions. stackelgrid report writes it.",
    );
  const picker = outcome.game.home ? new HomePicker(outcome, homes, charts) : null;
  const table = new HomeTable(homes, withChange(columns), money, picker && ((name) => picker.pick(name)));
  if (picker) picker.onPick = (name) => table.mark(name);
  picker?.pick(homes[0].name);
  return make(
    "div",
    { class: picker ? "halves" : "" },
    make("section", { class: "card", "aria-label": "Homes" }, make("h2", {}, "Home by home"), table.element),
    picker?.element,
  );
}

function withChange(columns) {
  const keys = columns.map(([key]) => key);
  return keys.includes("before") && keys.includes("bill") ? [...columns, ["change", "Change", "money"]] : columns;
}

/** A table of homes, sorted by the column whose heading is pressed. */
class HomeTable {
  constructor(homes, columns, money, onPick) {
    this.rows = homes.map((home) => ({ ...home, change: home.bill - home.before }));
    this.order = ["name", 1];
    this.onPick = onPick;
    this.columns = columns;
    this.heads = [["name", "Home", ""], ...columns].map(([key, label, unit]) => ({
      key,
      cell: make(
        "th",
        { scope: "col", class: key === "name" ? "" : "number" },
        make(
          "button",
          { type: "button", class: "sort", onclick: () => this.sort(key) },
          label,
          unit && make("span", {}, unit === "money" ? money : unit),
        ),
      ),
    }));
    this.most = Math.max(...this.rows.map((row) => Math.abs(row.change)).filter(Number.isFinite), 0) || 1;
    this.lines = new Map(this.rows.map((row) => [row.name, this.makeRow(row)]));
    this.body = make("tbody", {});
    this.element = make(
      "div",
      { class: "scroll homes-table", tabindex: "0", role: "region", "aria-label": "Table of homes" },
      make(
        "table",
        {},
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            this.heads.map(({ cell }) => cell),
          ),
        ),
        this.body,
      ),
    );
    this.draw();
  }

  makeRow(row) {
    const name = this.onPick
      ? make("button", { type: "button", class: "pick", onclick: () => this.onPick(row.name) }, row.name)
      : row.name;
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, name),
      this.columns.map(([key]) =>
        make("td", { class: "number" }, key === "change" ? this.makeChange(row.change) : write(row[key])),
      ),
    );
  }

  makeChange(change) {
    if (!Number.isFinite(change)) return "–";
    const width = (50 * Math.abs(change)) / this.most;
    const bar = make("i", {
      class: change < 0 ? "less" : "more",
      style: `width: ${width}%; ${change < 0 ? "right" : "left"}: 50%`,
    });
    return make(
      "span",
      { class: "change" },
      make("span", { class: "bar-track", "aria-hidden": true }, bar),
      `${change < 0 ? "−" : "+"}${showNumber(Math.abs(change))}`,
    );
  }

  sort(key) {
    this.order = [key, this.order[0] === key ? -this.order[1] : 1];
    this.draw();
  }

  draw() {
    const [key, way] = this.order;
    const compare = (one, other) =>
      key === "name"
        ? one.name.localeCompare(other.name, "en", { numeric: true })
        : (one[key] ?? Infinity) - (other[key] ?? Infinity);
    this.rows.sort((one, other) => way * compare(one, other));
    for (const head of this.heads) {
      if (head.key === key) head.cell.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      else head.cell.removeAttribute("aria-sort");
    }
    this.body.replaceChildren(...this.rows.map((row) => this.lines.get(row.name)));
  }

  /** Mark the home that is shown beside the table. */
  mark(name) {
    for (const [each, line] of this.lines) line.toggleAttribute("data-shown", each === name);
  }
}

const write = (value) => (value === undefined || value === null ? "–" : showNumber(value));

/** Shows the schedule of one home, with its battery, car and rooms where it has them. */
class HomePicker {
  constructor(outcome, homes, charts) {
    Object.assign(this, { outcome, charts, chart: null, onPick: () => {} });
    this.select = make(
      "select",
      { "aria-label": "Home", onchange: () => this.pick(this.select.value) },
      homes.map(({ name }) => make("option", { value: name }, name)),
    );
    this.box = make("div", {});
    this.element = make(
      "section",
      { class: "card", "aria-label": "One home" },
      make("div", { class: "card-head" }, make("h2", {}, "Schedule of"), this.select),
      this.box,
    );
  }

  pick(name) {
    this.select.value = name;
    this.onPick(name);
    if (this.chart) this.charts.splice(this.charts.indexOf(this.chart), 1);
    const window = this.charts[0]?.window;
    this.chart?.close();
    const series = this.outcome.home(name);
    this.chart = fill(
      new SlotCharts(
        this.box,
        this.outcome.clock,
        keepKnown(HOME_PANELS(this.outcome.run.money), series),
        `Slots of ${name}`,
      ),
      series,
    );
    if (window) this.chart.zoom(...window);
    this.charts.push(this.chart);
  }
}

// --- certificate and files ---

function judge(run) {
  const known = run.checks.filter((check) => check.value !== null);
  const judged = known.filter((check) => check.passed !== null);
  return {
    judged,
    failed: judged.filter((check) => !check.passed),
    others: known.filter((check) => check.passed === null),
  };
}

function makeCertificate(run) {
  const { judged, failed, others } = judge(run);
  const regret = judged.find((check) => check.key === "max_regret");
  const most = regret?.value === "0" ? "anything" : `more than ${regret?.value} of what it has`;
  const best = regret ? `: nobody could gain ${most} by deviating alone` : "";
  const content = !judged.length
    ? make("p", { class: "notice" }, "This run has no certificate. stackelgrid certify computes it.")
    : [
        make(
          "p",
          { class: failed.length ? "notice bad" : run.partly_certified ? "notice" : "notice good" },
          run.partly_certified && `${run.partly_certified}; the numbers are of those. `,
          failed.length
            ? `${failed.length} of ${judged.length} checks fail.`
            : !run.partly_certified && `All ${judged.length} checks hold${best}.`,
        ),
        make("ul", { class: "checks" }, judged.map(makeCheck)),
        others.length
          ? make(
              "details",
              {},
              make("summary", {}, "Numbers that are not judged"),
              make("ul", { class: "checks" }, others.map(makeCheck)),
            )
          : null,
      ];
  return make("section", { class: "card", "aria-label": "Certificate" }, make("h2", {}, "Certificate"), content);
}

function makeCheck({ label, meaning, value, limit, passed }) {
  const mark =
    passed === null
      ? ""
      : make(
          "span",
          { class: passed ? "mark holds" : "mark fails" },
          passed ? "✓" : "✕",
          make("span", { class: "unseen" }, passed ? "holds" : "fails"),
        );
  return make(
    "li",
    {},
    mark,
    make(
      "div",
      {},
      make("b", {}, label),
      make("span", { class: "soft" }, ` ${value}${limit && limit !== value ? `, at most ${limit}` : ""}`),
      meaning && make("p", { class: "soft" }, meaning),
    ),
  );
}

function makeDownloads(run) {
  const groups = [
    ["Tables", run.files.filter((name) => /^tables\/.*\.csv$/.test(name))],
    ["Figures", run.files.filter((name) => name.startsWith("figures/"))],
    ["Result and journal", run.files.filter((name) => !name.includes("/"))],
  ].filter(([, names]) => names.length);
  const link = (name) =>
    make("li", {}, make("a", { href: locateFile(run.id, name, true), download: true }, name.replace(/^.*\//, "")));
  const parts = groups.map(([title, names]) =>
    make("div", {}, make("h3", {}, title), make("ul", { class: "links" }, names.map(link))),
  );
  return make(
    "section",
    { class: "card", "aria-label": "Downloads" },
    make("h2", {}, "Downloads"),
    make("div", { class: "downloads" }, parts),
  );
}
