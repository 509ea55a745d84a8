// Two runs beside each other: key numbers with their differences, load and price over each other.

import { SlotCharts } from "./charts-slots.js";
import { make } from "./dom.js";
import { Outcome } from "./results-games.js";
import { showFigure, showShare } from "./results.js";

const NAMES = ["A", "B"];
/** Relative: below it a difference is rounding. */
const SAME_WITHIN = 1e-7;

/** Show two runs, as `GET /runs/ID` has them. Gives a function that ends it. */
export function showComparison(element, runs) {
  element.classList.add("view");
  element.append(make("div", { class: "halves" }, runs.map(makeHead)));
  const without = runs.find((run) => !run.result);
  if (without) {
    element.append(make("p", { class: "notice bad" }, `${without.id} has no result to compare. ${without.message}`));
    return null;
  }
  element.append(makeFigures(runs));
  const outcomes = runs.map((run) => new Outcome(run));
  if (runs[0].game !== runs[1].game) {
    element.append(make("p", { class: "notice" }, "They are of different games: only how they went can be compared."));
    return null;
  }
  if (!outcomes.every((outcome) => outcome.isKnown && outcome.panels)) return null;
  if (!haveSameSlots(runs)) {
    element.append(
      make("p", { class: "notice" }, "Their slots differ, so their curves are not drawn over each other."),
    );
    return null;
  }
  const box = make("div", {});
  element.append(
    make("section", { class: "card", "aria-label": "Load and price" }, make("h2", {}, "Load and price"), box),
  );
  const chart = new SlotCharts(box, outcomes[0].clock, outcomes[0].panels.map(pair), "Slots of both runs");
  chart.set(
    Object.fromEntries(
      outcomes.flatMap(({ series }, index) =>
        Object.entries(series).map(([key, values]) => [`${key} ${index}`, values]),
      ),
    ),
  );
  return () => chart.close();
}

function makeHead(run, index) {
  return make(
    "section",
    { class: "card", "aria-label": `Run ${NAMES[index]}` },
    make(
      "h2",
      {},
      make("span", { class: `letter letter-${index}` }, NAMES[index]),
      " ",
      make("a", { href: `#/runs/${encodeURIComponent(run.id)}/results` }, run.id),
    ),
    make("p", {}, run.scenario),
    make("p", { class: "soft" }, run.verdict || run.message),
  );
}

/** A table of the key numbers of both, and how B differs from A. */
function makeFigures(runs) {
  const [first, second] = runs.map(listFigures);
  const rows = first.flatMap(([label, value, unit]) => {
    const other = second.find((each) => each[0] === label && each[2] === unit);
    return other ? [[label, value, other[1], unit]] : [];
  });
  return make(
    "section",
    { class: "card scroll figures-table", "aria-label": "Key figures", tabindex: "0", role: "region" },
    make("h2", {}, "Key figures"),
    make(
      "table",
      {},
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          ["Figure", ...NAMES, "B − A", "relative"].map((text, index) =>
            make("th", { scope: "col", class: index && index < 4 ? "number" : "" }, text),
          ),
        ),
      ),
      make(
        "tbody",
        {},
        rows.map(([label, value, other, unit]) =>
          make(
            "tr",
            {},
            make("th", { scope: "row" }, label, unit && ` (${unit})`),
            [value, other].map((each) => make("td", { class: "number" }, write(each))),
            makeDifference(value, other),
          ),
        ),
      ),
    ),
  );
}

/** List how a run went, and the key numbers of its game, as [label, value, unit]. */
function listFigures(run) {
  const outcome = new Outcome(run);
  const tiles = outcome.isKnown ? outcome.listTiles(outcome.listHomes(null)) : [];
  const { rounds, messages, elapsed_s: seconds, homes, homes_settled: settled } = run.result;
  return [
    ...tiles.map(([label, value, unit]) => [label, value, unit === "money" ? run.money : unit]),
    ["Rounds", rounds, ""],
    ["Homes", homes, ""],
    ["Homes that settled", settled, ""],
    ["Messages", messages, ""],
    ["Time", seconds, "s"],
  ];
}

const write = (value) => (Number.isFinite(value) ? showFigure(value) : "–");

function makeDifference(value, other) {
  const difference = other - value;
  if (!Number.isFinite(difference)) return [make("td", { class: "number" }, "–"), make("td", {})];
  const isEqual = Math.abs(difference) <= SAME_WITHIN * Math.abs(value);
  const text = isEqual ? "equal" : `${difference < 0 ? "−" : "+"}${showFigure(Math.abs(difference))}`;
  return [
    make("td", { class: "number" }, text),
    make("td", { class: "soft" }, !isEqual && value > 0 ? showShare(difference / value) : ""),
  ];
}

function haveSameSlots([first, second]) {
  return (
    first.slots === second.slots &&
    first.slot_hours === second.slot_hours &&
    String(first.times) === String(second.times) &&
    String(first.sessions.map(Object.values)) === String(second.sessions.map(Object.values))
  );
}

/** Draw the settled line of a panel for both runs, B as a broad one behind that of A. */
function pair(panel) {
  const line = panel.lines.at(-1);
  return {
    ...panel,
    lines: [
      { ...line, key: `${line.key} 1`, label: "B", colour: "--car", width: 7, alpha: 0.55, filled: false },
      { ...line, key: `${line.key} 0`, label: "A", filled: false },
    ],
  };
}
