// One run: watched while it goes on, replayed when it has ended, and its results.

import { follow, get, locate } from "./api.js";
import { RoundCharts } from "./charts.js";
import { make } from "./dom.js";
import { showResults } from "./results.js";
import { RUN_STATES } from "./states.js";

/** Show a run; `view` is "watch" or "results". */
export async function showRun(element, id, view) {
  const run = await get(locate(id));
  const body = make("section", { "aria-label": view === "results" ? "Results" : "Negotiation" });
  element.append(make("h1", { tabindex: "-1" }, run.scenario ?? run.id), make("p", {}, RUN_STATES[run.state]), body);
  if (view === "results") return showResults(body, run);
  let charts = null;
  return follow(
    id,
    (event) => {
      if (event.type === "tree") charts = new RoundCharts(body, event);
      if (event.type === "round") charts.round(event);
    },
    () => {},
  );
}
