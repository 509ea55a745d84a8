// Two runs beside each other.

import { makeTable } from "./dom.js";

/** Show two runs, as `GET /runs/ID` has them. */
export function showComparison(element, runs) {
  const [first, second] = runs.map((run) => run.result ?? {});
  const shared = Object.keys(first).filter((key) => typeof first[key] === "number" && typeof second[key] === "number");
  element.append(makeTable("Key figures", ["Figure", ...runs.map((run) => run.id)], shared.map((key) => [key, first[key], second[key]])));
}
