// The form that starts a run.

import { get, post } from "./api.js";
import { make } from "./dom.js";

/** Show the form. */
export async function showStart(element) {
  const scenarios = await get("scenarios");
  const start = async (scenario) => {
    const { id } = await post("runs", { scenario, pace_s: 1 });
    location.hash = `#/runs/${encodeURIComponent(id)}`;
  };
  element.append(
    make("h1", { tabindex: "-1" }, "New run"),
    make("ul", {}, scenarios.map((each) => make("li", {}, make("button", { type: "button", onclick: () => start(each.name) }, each.title)))),
  );
}
