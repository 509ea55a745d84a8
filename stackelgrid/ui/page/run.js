// One run: watched and disturbed while it goes on, replayed when it has ended, and its results.

import { follow, get, locate, locateFile, post } from "./api.js";
import { make, showTime } from "./dom.js";
import { Disturbance } from "./faults.js";
import { showFleet } from "./fleet.js";
import { Replay } from "./replay.js";
import { showResults } from "./results.js";
import { makeStateChip } from "./runs.js";
import { Scene } from "./scene.js";

/** Show a run; `view` is "watch" or "results". */
export async function showRun(element, id, view) {
  // What came out of a week is long, and nobody who watches needs it.
  const run = await get(locate(id) + (view === "watch" ? "?result=0" : ""));
  const head = new Head(element, run, view);
  if (run.state === "unreadable") {
    element.append(make("p", { class: "notice bad" }, run.message));
    return null;
  }
  const body = make("div", { class: "view" });
  element.append(body);
  if (view === "watch") return watch(body, run, head);
  if (run.state !== "running") return showResults(body, run);
  return awaitResults(body, run, head);
}

/** Show the results of a run as soon as it has ended. */
function awaitResults(element, run, head) {
  element.append(make("p", { class: "notice" }, "The run goes on. Its results come when it has ended."));
  let isClosed = false;
  let close = null;
  const show = async () => {
    const ended = await get(locate(run.id));
    if (isClosed) return;
    head.draw(ended);
    element.replaceChildren();
    close = await showResults(element, ended);
    if (isClosed) close?.();
  };
  const stop = follow(
    run.id,
    (event) => {
      if (event.type === "end") show().catch((error) => head.say(error.message));
    },
    () => {},
  );
  return () => {
    isClosed = true;
    stop();
    close?.();
  };
}

function watch(element, run, head) {
  const events = [];
  const isLive = run.state === "running";
  const bar = make("section", { class: "card replay", "aria-label": "Replay", hidden: true });
  const broken = make(
    "p",
    { class: "notice warn", role: "status", hidden: true },
    "The connection to the server is lost. Trying again.",
  );
  let disturbance = null;
  element.append(broken, bar);
  const scene = new Scene(element, (name) => disturbance?.select(name));
  if (run.faultable) {
    const card = make("section", { class: "card disturb", "aria-label": "Disturb" });
    scene.side.append(card);
    disturbance = new Disturbance(card, run.id);
  }
  let closeFleet = null;
  let replay = null;
  const offerReplay = () => {
    bar.hidden = false;
    replay = new Replay(
      bar,
      events,
      (event) => scene.apply(event),
      () => scene.restart(),
    );
  };
  const stop = follow(
    run.id,
    (event) => {
      events.push(event);
      if (event.type === "tree" && event.grid) closeFleet ??= showFleet(element, run.id);
      if (event.type === "fault") {
        head.offerPlan();
        disturbance?.note(event.fault);
      }
      if (isLive) scene.apply(event);
      if (event.type !== "end") return;
      if (isLive) {
        // What has the focus goes; the run's title takes it.
        if (scene.side.contains(document.activeElement)) head.title.focus();
        scene.side.replaceChildren();
        disturbance = null;
        head.reload().catch((error) => head.say(error.message));
      } else for (const each of events) scene.apply(each);
      offerReplay();
    },
    (isBroken) => (broken.hidden = !isBroken),
  );
  return () => {
    stop();
    closeFleet?.();
    replay?.close();
    scene.close();
  };
}

/** The title of a run with its state, its views and what can be done with it. */
class Head {
  constructor(element, run, view) {
    this.view = view;
    this.facts = make("p", { class: "facts soft" });
    this.actions = make("div", { class: "buttons" });
    this.notice = make("p", { class: "notice", hidden: true });
    this.title = make("h1", { tabindex: "-1" }, run.scenario || run.id);
    this.views = make("nav", { class: "tabs", "aria-label": "Views of the run" });
    element.append(
      make("div", { class: "title" }, make("div", {}, this.title, this.facts), this.actions),
      this.notice,
      this.views,
    );
    this.draw(run);
  }

  draw(run) {
    this.run = run;
    const path = `#/runs/${encodeURIComponent(run.id)}`;
    const size = run.homes && `${run.homes} homes, ${run.transport === "memory" ? "in memory" : "over MQTT"}`;
    this.facts.replaceChildren(
      makeStateChip(run.state),
      make("span", {}, run.id),
      size ? make("span", {}, size) : "",
      showTime(run.started),
    );
    const tab = (name, text, href) => make("a", { href, "aria-current": this.view === name && "page" }, text);
    this.views.replaceChildren(tab("watch", "Negotiation", path), tab("results", "Results", `${path}/results`));
    this.views.hidden = run.state === "unreadable";
    this.actions.replaceChildren();
    if (run.files.includes("report.html")) {
      this.actions.append(
        make(
          "a",
          { class: "button", href: locateFile(run.id, "report.html"), target: "_blank", rel: "noopener" },
          "Report",
          make("span", { class: "unseen" }, " in a new tab"),
        ),
      );
    }
    if (run.stoppable)
      this.actions.append(make("button", { type: "button", onclick: () => this.stop() }, "Stop the run"));
    if (this.hasPlan) this.offerPlan(true);
  }

  /** Offer the faults that have struck as a plan. */
  offerPlan(isAgain = false) {
    if (this.hasPlan && !isAgain) return;
    this.hasPlan = true;
    this.actions.prepend(
      make(
        "a",
        { class: "button", href: locateFile(this.run.id, "faults.yaml", true), download: true },
        "Save faults as a plan",
      ),
    );
  }

  async stop() {
    try {
      await post(locate(this.run.id, "stop"));
      this.say("The run is being stopped.");
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Draw it anew, for the run has ended. */
  async reload() {
    const run = await get(`${locate(this.run.id)}?result=0`);
    this.draw(run);
    const words = {
      settled: `Settled after ${run.rounds} ${run.rounds === 1 ? "round" : "rounds"}. `,
      unsettled: "The run has ended without settling. ",
      interrupted: "The run was stopped. ",
      failed: "The run has failed. ",
    };
    this.say(
      words[run.state] ?? "The run has ended. ",
      make("a", { href: `#/runs/${encodeURIComponent(run.id)}/results` }, "See its results"),
    );
  }

  say(...content) {
    this.notice.hidden = false;
    this.notice.replaceChildren(...content);
  }
}
