// The control room's page: which view is shown, by the fragment of the address.

import { ApiError, get, locate } from "./api.js";
import { showComparison } from "./compare.js";
import { make } from "./dom.js";
import { showRun } from "./run.js";
import { showRuns } from "./runs.js";
import { showStart } from "./start.js";

/** Each view draws into an element; it may give a function that ends what it has begun. */
const ROUTES = [
  [/^\/?$/, showRuns],
  [/^\/new$/, showStart],
  [/^\/runs\/([^/]+)$/, (element, id) => showRun(element, id, "watch")],
  [/^\/runs\/([^/]+)\/results$/, (element, id) => showRun(element, id, "results")],
  [/^\/compare\/([^/]+)\/([^/]+)$/, compare],
];

const main = document.getElementById("main");
let close = null;
let shown = 0;

// The token is in a cookie by now; it need not stay in the address.
history.replaceState(null, "", location.pathname + location.hash);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => show(true));
show(false);

async function show(isChange) {
  const path = location.hash.replace(/^#/, "");
  const view = make("div", { class: "view" });
  const number = ++shown;
  close?.();
  close = null;
  main.replaceChildren(view, make("p", { class: "loading soft" }, "Loading …"));
  markPage(path);
  if (isChange) scrollTo(0, 0);
  try {
    const [pattern, draw] = ROUTES.find(([each]) => each.test(path)) ?? [/^/, showNothing];
    const end = await draw(view, ...pattern.exec(path).slice(1).map(decodeURIComponent));
    if (number === shown) close = end ?? null;
    else end?.();
  } catch (error) {
    if (!(error instanceof ApiError)) console.error(error);
    view.replaceChildren(
      make("h1", { tabindex: "-1" }, "This cannot be shown"),
      make("p", { class: "notice bad", role: "alert" }, error.message),
    );
  }
  if (number !== shown) return;
  main.querySelector(".loading").remove();
  const title = view.querySelector("h1");
  document.title = title ? `${title.textContent} · Stackelgrid` : "Stackelgrid";
  if (isChange) title?.focus();
}

function markPage(path) {
  for (const link of document.querySelectorAll("nav[aria-label=Pages] a")) {
    const isCurrent = link.hash === `#${path || "/"}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function compare(element, ...ids) {
  const runs = await Promise.all(ids.map((id) => get(locate(id))));
  element.append(make("h1", { tabindex: "-1" }, "Two runs compared"));
  const body = make("div");
  element.append(body);
  return showComparison(body, runs);
}

function showNothing(element) {
  element.append(
    make("h1", { tabindex: "-1" }, "There is no such page"),
    make("p", {}, make("a", { href: "#/" }, "All runs")),
  );
}
