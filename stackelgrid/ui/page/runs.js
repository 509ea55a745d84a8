// The list of runs: look at one, compare two, remove those that are of no use.

import { get, locate, remove } from "./api.js";
import { make, showTime } from "./dom.js";
import { RUN_STATES } from "./states.js";

const AGAIN_MS = 3000;
const PART = 100;

/** Show all runs, the newest first. The list goes on while it is shown. */
export async function showRuns(element) {
  const list = new RunList(element);
  await list.load();
  return () => list.close();
}

class RunList {
  constructor(element) {
    this.runs = [];
    this.chosen = new Set();
    this.rows = new Map();
    this.length = PART;
    this.status = make("p", { role: "status", class: "soft" });
    this.compare = make("button", { type: "button", onclick: () => this.openComparison() }, "Compare");
    this.filter = make("input", {
      type: "search",
      placeholder: "Filter by name, scenario or state",
      "aria-label": "Filter the runs",
      oninput: () => this.draw(),
    });
    this.more = make("button", { type: "button", class: "more", onclick: () => this.showMore() }, "Show more");
    this.body = make("ul", { class: "runs" });
    this.tools = make("div", { class: "tools" }, this.filter, this.status, this.compare);
    this.notice = make("p", { class: "notice bad", role: "alert", hidden: true });
    this.title = make("h1", { tabindex: "-1" }, "Runs");
    element.append(
      make("div", { class: "title" }, this.title, make("a", { class: "button main", href: "#/new" }, "New run")),
      this.tools,
      this.notice,
      this.body,
      this.more,
    );
  }

  async load() {
    clearTimeout(this.timer);
    this.runs = await get("runs");
    this.draw();
    if (!this.closed) this.timer = setTimeout(() => this.reload(), AGAIN_MS);
  }

  async reload() {
    try {
      if (!document.hidden) await this.load();
      else this.timer = setTimeout(() => this.reload(), AGAIN_MS);
      this.say("");
    } catch (error) {
      this.say(error.message);
      if (!this.closed) this.timer = setTimeout(() => this.reload(), AGAIN_MS);
    }
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  draw() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.runs.filter((run) => {
      const text = `${run.id} ${run.scenario} ${RUN_STATES[run.state]}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const rows = found.slice(0, this.length).map((run) => this.findRow(run));
    // A row that stays is not moved: it may have the focus.
    rows.forEach((row, index) => {
      if (this.body.children[index] !== row) this.body.insertBefore(row, this.body.children[index] ?? null);
    });
    while (this.body.children.length > rows.length) this.body.lastChild.remove();
    if (!this.runs.length) this.body.replaceChildren(makeInvitation());
    this.tools.hidden = !this.runs.length;
    this.more.hidden = found.length <= this.length;
    const ids = new Set(this.runs.map((run) => run.id));
    for (const id of this.chosen) if (!ids.has(id)) this.chosen.delete(id);
    this.count(found.length);
  }

  count(found) {
    const n = this.chosen.size;
    const choice = n === 0 ? "tick two to compare them" : n === 1 ? "tick another to compare" : `${n} are ticked`;
    this.status.textContent = `${found} ${found === 1 ? "run" : "runs"}${this.runs.length > 1 ? `, ${choice}` : ""}`;
    this.compare.hidden = n !== 2;
  }

  findRow(run) {
    const text = JSON.stringify(run);
    const before = this.rows.get(run.id);
    if (before?.text === text) return before.row;
    const row = this.makeRow(run);
    before?.row.replaceWith(row);
    this.rows.set(run.id, { text, row });
    return row;
  }

  makeRow(run) {
    const path = `#/runs/${encodeURIComponent(run.id)}`;
    const canBeRead = run.state !== "unreadable";
    const title = run.scenario || run.id;
    const link = run.state === "running" ? path : `${path}/results`;
    const facts = [
      [run.rounds, run.rounds === 1 ? "round" : "rounds"],
      [run.homes, run.homes === 1 ? "home" : "homes"],
    ].filter(([value]) => value !== null);
    return make(
      "li",
      { class: "run card", "data-run": run.id },
      canBeRead && run.state !== "running"
        ? make("label", { class: "choice" }, this.makeBox(run), make("span", { class: "unseen" }, `Compare ${run.id}`))
        : make("span", { class: "choice" }),
      make(
        "div",
        { class: "what" },
        make("h2", {}, canBeRead ? make("a", { href: link }, title) : title),
        make("p", { class: "soft id" }, run.id),
        run.message && make("p", { class: canBeRead ? "soft" : "trouble" }, run.message),
      ),
      make(
        "p",
        { class: "facts soft" },
        facts.map(([value, word]) => make("span", {}, make("b", {}, String(value)), ` ${word}`)),
      ),
      make("p", { class: "soft when" }, showTime(run.started)),
      makeStateChip(run.state),
      run.state === "running"
        ? make("span", {})
        : make(
            "button",
            { type: "button", class: "quiet", onclick: () => this.askToRemove(run) },
            "Remove",
            make("span", { class: "unseen" }, ` ${run.id}`),
          ),
    );
  }

  makeBox(run) {
    const choose = (event) => {
      if (event.target.checked) this.chosen.add(run.id);
      else this.chosen.delete(run.id);
      this.draw();
    };
    return make("input", { type: "checkbox", checked: this.chosen.has(run.id), onchange: choose });
  }

  openComparison() {
    const order = this.runs.map((run) => run.id).filter((id) => this.chosen.has(id));
    location.hash = `#/compare/${order.reverse().map(encodeURIComponent).join("/")}`;
  }

  showMore() {
    const first = this.length;
    this.length += PART;
    this.draw();
    this.body.children[first]?.querySelector("a, button")?.focus();
  }

  askToRemove(run) {
    const dialog = make(
      "dialog",
      { "aria-labelledby": "remove-title", onclose: () => dialog.remove() },
      make("h2", { id: "remove-title" }, "Remove this run?"),
      make("p", {}, `The folder of ${run.id} is deleted, with its report and its tables.`),
      make(
        "form",
        { method: "dialog", class: "buttons" },
        make("button", { autofocus: true }, "Keep it"),
        make("button", { class: "harm", onclick: () => this.remove(run) }, "Remove"),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  }

  async remove(run) {
    try {
      await remove(locate(run.id));
      this.rows.delete(run.id);
      await this.load();
      this.say("");
      this.title.focus();
    } catch (error) {
      this.say(error.message);
    }
  }

  say(text) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }
}

/** Make the mark of a run's state. */
export function makeStateChip(state) {
  return make("span", { class: "chip", "data-run-state": state }, RUN_STATES[state]);
}

function makeInvitation() {
  return make(
    "li",
    { class: "card invitation" },
    make("h2", {}, "There are no runs yet"),
    make(
      "p",
      { class: "soft" },
      "Start a shipped case and watch a utility, its aggregators and sixty homes agree on a price.",
    ),
    make("a", { class: "button main", href: "#/new" }, "Start a run"),
  );
}
