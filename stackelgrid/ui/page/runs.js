// The list of runs.

import { get } from "./api.js";
import { make, makeTable } from "./dom.js";
import { RUN_STATES } from "./states.js";

/** Show all runs. */
export async function showRuns(element) {
  const runs = await get("runs");
  element.append(
    make("h1", { tabindex: "-1" }, "Runs"),
    makeTable(
      "All runs, the newest first",
      ["Run", "State", "Scenario", "Started", "Rounds", "Homes"],
      runs.map((run) => [
        make("a", { href: `#/runs/${encodeURIComponent(run.id)}` }, run.id),
        RUN_STATES[run.state],
        run.scenario,
        run.started,
        run.rounds,
        run.homes,
      ]),
    ),
  );
}
