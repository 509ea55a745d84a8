// The fleet of a grid: each member's last heartbeat, as the observer of a deployed run keeps it.

import { get, locate } from "./api.js";
import { make, makeTable, showTime } from "./dom.js";

const LOOK_MS = 5000;
const SILENT_MS = 90_000;
const PLAN = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };

/** Show the fleet of a run in `element` and keep it up to date. Gives a function that ends it. */
export function showFleet(element, run) {
  const table = make("div", { class: "scroll" });
  element.append(make("section", { class: "card", "aria-label": "Fleet" }, make("h2", {}, "Fleet"), table));
  let shown = "";
  const look = async () => {
    const fleet = await get(locate(run, "files", "fleet.json"));
    const rows = Object.entries(fleet).map(([name, member]) => [name, member.coordinator, ...describe(member)]);
    const text = JSON.stringify([fleet, rows.map((row) => row[2])]);
    if (text === shown) return; // a table that is drawn anew loses its place for who has it read aloud
    shown = text;
    const heard = rows.filter((row) => row[2] !== "silent").length;
    table.replaceChildren(
      makeTable(
        `${heard} of ${rows.length} members are heard.`,
        ["Member", "Below", "State", "Last heard", "Session", "Plan until", "Version"],
        rows,
      ),
    );
  };
  const again = () => look().catch(() => {}); // it is written as soon as the first is heard
  again();
  const timer = setInterval(again, LOOK_MS);
  return () => clearInterval(timer);
}

function describe(member) {
  const isSilent = Date.now() - new Date(member.at) > SILENT_MS;
  return [
    isSilent ? "silent" : member.state,
    showTime(member.at),
    member.session,
    member.plan_until && new Date(member.plan_until).toLocaleString("en-GB", PLAN),
    member.version,
  ];
}
