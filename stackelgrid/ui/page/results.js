// What came out of a run.

import { locateFile } from "./api.js";
import { make, makeTable } from "./dom.js";

/** Show the results of a run that has ended, as `GET /runs/ID` has it. */
export function showResults(element, run) {
  const numbers = Object.entries(run.result ?? {}).filter(([, value]) => typeof value === "number");
  element.append(
    makeTable("Key figures", ["Figure", "Value"], numbers),
    make("ul", {}, run.files.map((name) => make("li", {}, make("a", { href: locateFile(run.id, name, true) }, name)))),
  );
}
