// Play, pause and step through the events of a run that has ended.

import { make } from "./dom.js";

const SPEEDS = [0.25, 0.5, 1, 2, 5, 20];
/** The longest that a person waits for all of it, seconds. */
const LONGEST_S = 60;
/** The longest that nothing happens, and the least between two rounds: one in memory takes milliseconds. */
const MOST_GAP_S = 2;
const LEAST_ROUND_S = 0.7;
/** The time after a round in which what is said of it comes, seconds. */
const AFTER_S = 0.05;

/** Controls over recorded `events`: `apply(event)` shows the next, `restart()` what was before the first. */
export class Replay {
  constructor(element, events, apply, restart) {
    this.events = events;
    this.apply = apply;
    this.restart = restart;
    this.moments = [...space(events)];
    this.applied = events.length;
    this.length = this.moments.at(-1);
    this.seconds = this.length;
    this.build(element);
    this.draw();
  }

  /** Play on, at the end from the beginning. */
  play() {
    if (this.applied === this.events.length) this.seek(0);
    this.then = performance.now();
    this.frame = requestAnimationFrame((now) => this.tick(now));
    this.draw();
  }

  pause() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.draw();
  }

  /** Go on to the end of the next round, and to what is said of it. */
  step() {
    this.pause();
    if (this.applied === this.events.length) this.seek(0);
    let last = this.events.findIndex((event, index) => index >= this.applied && event.type === "round");
    if (last < 0) last = this.events.length - 1;
    const until = this.events[last].seconds + AFTER_S;
    const isOfRound = (event) => event.seconds <= until && event.state !== "asked" && event.type !== "round";
    while (last + 1 < this.events.length && isOfRound(this.events[last + 1])) last += 1;
    this.applyTo(last + 1);
    this.seconds = this.moments[last];
    this.draw();
  }

  /** Go to a time. */
  seek(seconds) {
    if (seconds < this.seconds) {
      this.restart();
      this.applied = 0;
    }
    this.advance(seconds);
    this.draw();
  }

  close() {
    cancelAnimationFrame(this.frame);
  }

  tick(now) {
    const seconds = this.seconds + ((now - this.then) / 1000) * SPEEDS[this.speed.value];
    this.then = now;
    this.advance(Math.min(seconds, this.length));
    this.frame = this.applied < this.events.length ? requestAnimationFrame((next) => this.tick(next)) : 0;
    this.draw();
  }

  advance(seconds) {
    const next = this.moments.findIndex((moment, index) => index >= this.applied && moment > seconds);
    this.applyTo(next < 0 ? this.events.length : next);
    this.seconds = seconds;
  }

  applyTo(count) {
    for (; this.applied < count; this.applied += 1) this.apply(this.events[this.applied]);
  }

  build(element) {
    this.button = make("button", {
      type: "button",
      class: "main play",
      onclick: () => (this.frame ? this.pause() : this.play()),
    });
    this.slider = make("input", {
      type: "range",
      min: "0",
      max: String(this.length),
      step: "any",
      "aria-label": "Time of the run",
      oninput: () => this.seek(Number(this.slider.value)),
    });
    this.time = make("output", { class: "soft time" });
    this.speed = make(
      "select",
      { "aria-label": "Speed" },
      SPEEDS.map((speed, index) => make("option", { value: String(index) }, `${speed} ×`)),
    );
    this.speed.value = String(this.chooseSpeed());
    element.replaceChildren(
      this.button,
      make("button", { type: "button", onclick: () => this.step() }, "Next round"),
      this.slider,
      this.time,
      this.speed,
    );
  }

  /** Choose a speed at which all of it is not too long. */
  chooseSpeed() {
    const found = SPEEDS.findIndex((speed) => speed >= 1 && speed >= this.length / LONGEST_S);
    return found < 0 ? SPEEDS.length - 1 : found;
  }

  draw() {
    const word = this.frame ? "Pause" : "Play";
    if (this.button.textContent !== word) this.button.textContent = word;
    this.button.dataset.playing = Boolean(this.frame);
    this.slider.value = String(this.seconds);
    const seconds = this.applied ? this.events[this.applied - 1].seconds : 0;
    const text = `${seconds.toFixed(1)} of ${this.events.at(-1).seconds.toFixed(1)} s`;
    if (this.time.textContent !== text) this.time.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }
}

/** Give the time of each event in the replay. */
function* space(events) {
  let now = 0;
  let round = -LEAST_ROUND_S;
  let before = 0;
  for (const event of events) {
    now += Math.min(Math.max(event.seconds - before, 0), MOST_GAP_S);
    before = event.seconds;
    if (event.type === "round") {
      now = Math.max(now, round + LEAST_ROUND_S);
      round = now;
    }
    yield now;
  }
}
