// The buttons that harm: faults for the node that is selected, and for the broker.

import { locate, post } from "./api.js";
import { make } from "./dom.js";

/** The faults of a node, each with the numbers that one may change. */
const FAULTS = [
  { name: "Crash", what: "Kill the process; it comes back after", kind: "crash", fields: [["restart_after_s", 3, "s", 0]] },
  { name: "Stall", what: "Let the process stand still for", kind: "stall", fields: [["seconds", 3, "s", 0.1]] },
  { name: "Cut", what: "Cut its connection for", kind: "cut", fields: [["seconds", 3, "s", 0.1]] },
  { name: "Delay", what: "What it sends is late by", kind: "delay", from: true, fields: [["seconds", 1, "s", 0.1], ["rounds", 3, "rounds", 1]] },
  { name: "Lose", what: "Lose this part of what it sends:", kind: "loss", from: true, fields: [["probability", 0.5, "", 0.01], ["rounds", 3, "rounds", 1]] },
];
const BROKER = { name: "Restart broker", what: "The broker is down for", kind: "broker", fields: [["seconds", 2, "s", 0.1]] };

/** Offers the faults of the selected node of a run that goes on. */
export class Disturbance {
  constructor(element, run) {
    this.run = run;
    this.node = null;
    this.answer = make("p", { role: "status", class: "soft answer" });
    this.target = make("p", { class: "target" });
    this.ofNode = make("div", { class: "faults" }, FAULTS.map((fault) => this.makeFault(fault)));
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
    this.target.replaceChildren(...(name === null ? ["Choose a node in the tree."] : ["Strikes ", make("b", {}, name), " now, or at its next question."]));
  }

  makeFault(fault) {
    const inputs = fault.fields.map(([key, value, unit, min]) => {
      const step = key === "rounds" ? "1" : "any";
      const max = key === "probability" ? "1" : null;
      const label = `${fault.name}: ${key === "restart_after_s" ? "seconds until it is back" : key}`;
      const input = make("input", { type: "number", name: key, value: String(value), min: String(min), max, step, required: true, "aria-label": label });
      return [input, unit && make("span", {}, unit)];
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
      make("p", { class: "soft" }, fault.what, " ", inputs),
    );
  }

  async strike(fault, numbers) {
    const where = fault === BROKER ? {} : { [fault.from ? "from" : "node"]: this.node };
    try {
      const { fault: number } = await post(locate(this.run, "faults"), { kind: fault.kind, ...where, ...numbers });
      this.say(`Fault ${number} is on its way${fault === BROKER ? "" : ` to ${this.node}`}.`);
    } catch (error) {
      this.say(error.message, true);
    }
  }

  say(text, isBad = false) {
    this.answer.textContent = text;
    this.answer.className = isBad ? "notice bad" : "soft answer";
  }
}
