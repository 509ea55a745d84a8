// The buttons that harm: faults for the node that is selected, and for the broker.

import { locate, post } from "./api.js";
import { make } from "./dom.js";

/** The faults of a node: what each does, in words around the numbers that one may change. */
const FAULTS = [
  { name: "Crash", kind: "crash", words: ["killed, back after", ["restart_after_s", 3, 0], "s"] },
  { name: "Stall", kind: "stall", words: ["stands still for", ["seconds", 3, 0.1], "s"] },
  { name: "Cut", kind: "cut", words: ["off the network for", ["seconds", 3, 0.1], "s"] },
  {
    name: "Delay",
    kind: "delay",
    from: true,
    words: ["speaks", ["seconds", 1, 0.1], "s late for", ["rounds", 3, 1], "rounds"],
  },
  {
    name: "Lose",
    kind: "loss",
    from: true,
    words: ["loses", ["probability", 0.5, 0.01], "of its messages for", ["rounds", 3, 1], "rounds"],
  },
];
const BROKER = { name: "Restart broker", kind: "broker", words: ["down for", ["seconds", 2, 0.1], "s"] };

/** Offers the faults of the selected node of a run that goes on. */
export class Disturbance {
  constructor(element, run) {
    this.run = run;
    this.node = null;
    this.struck = new Set(); // the numbers of faults
    this.answer = make("p", { role: "status", class: "soft answer" });
    this.target = make("p", { class: "target" });
    this.ofNode = make(
      "div",
      { class: "faults" },
      FAULTS.map((fault) => this.makeFault(fault)),
    );
    element.append(
      make("h2", {}, "Disturb"),
      this.target,
      this.ofNode,
      make("div", { class: "faults broker" }, this.makeFault(BROKER)),
      this.answer,
    );
    this.select(null);
  }

  /** Aim at a node. */
  select(name) {
    this.node = name;
    this.ofNode.hidden = name === null;
    this.target.replaceChildren(
      ...(name === null
        ? ["Choose a node in the tree."]
        : ["Strikes ", make("b", {}, name), " now, or at its next question."]),
    );
  }

  makeFault(fault) {
    const parts = fault.words.map((part) => {
      if (typeof part === "string") return ` ${part} `;
      const [key, value, min] = part;
      const label = `${fault.name}: ${key === "restart_after_s" ? "seconds until it is back" : key}`;
      const max = key === "probability" ? "1" : null;
      const step = key === "rounds" ? "1" : "any";
      return make("input", {
        type: "number",
        name: key,
        value: String(value),
        min: String(min),
        max,
        step,
        required: true,
        "aria-label": label,
      });
    });
    const submit = (event) => {
      event.preventDefault();
      const numbers = Object.fromEntries([...new FormData(event.target)].map(([key, value]) => [key, Number(value)]));
      this.strike(fault, numbers);
    };
    return make(
      "form",
      { class: "fault", onsubmit: submit },
      make("button", { class: "harm" }, fault.name),
      make("p", { class: "soft" }, parts),
    );
  }

  async strike(fault, numbers) {
    const where = fault === BROKER ? {} : { [fault.from ? "from" : "node"]: this.node };
    try {
      const { fault: number } = await post(locate(this.run, "faults"), { kind: fault.kind, ...where, ...numbers });
      this.waited = number;
      if (this.struck.has(number)) this.note(number);
      else this.say(`Fault ${number} is on its way${fault === BROKER ? "" : ` to ${where.from ?? where.node}`}.`);
    } catch (error) {
      this.say(error.message, true);
    }
  }

  /** Note that a fault has struck. */
  note(number) {
    this.struck.add(number);
    if (number === this.waited) this.say(`Fault ${number} has struck.`);
  }

  say(text, isBad = false) {
    this.answer.textContent = text;
    this.answer.className = isBad ? "notice bad" : "soft answer";
  }
}
