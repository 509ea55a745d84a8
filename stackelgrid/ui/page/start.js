// The form that starts a run: a scenario, what one changes most often, and every other key of it.

import { get, post } from "./api.js";
import { make } from "./dom.js";
import { SettingsForm } from "./form.js";

const CHECK_MS = 350;
/** The scenario that is chosen at first: the one of the tutorial. */
const FIRST = "user_oriented";

/** Show the form. */
export async function showStart(element) {
  const [all, plans] = await Promise.all([get("scenarios"), get("plans")]);
  const isFirst = (scenario) => scenario.name === FIRST;
  const scenarios = [...all.filter(isFirst), ...all.filter((each) => !isFirst(each))];
  const form = new StartForm(element, scenarios, plans);
  await form.choose(scenarios[0]);
  return () => form.close();
}

class StartForm {
  constructor(element, scenarios, plans) {
    this.schemas = new Map();
    this.settingsBox = make("div", { class: "settings" });
    this.status = make("p", { role: "status", class: "soft" });
    this.button = make("button", { class: "main" }, "Start the run");
    this.options = makeOptions(plans, () => this.change());
    this.form = make(
      "form",
      { class: "start", novalidate: true, onsubmit: (event) => this.submit(event) },
      make(
        "fieldset",
        { class: "card scenarios" },
        make("legend", {}, "Scenario"),
        scenarios.map((each) => this.makeChoice(each)),
      ),
      this.settingsBox,
      make("div", { class: "submit card" }, this.status, this.button),
    );
    element.append(make("h1", { tabindex: "-1" }, "New run"), this.form);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  makeChoice(scenario) {
    const radio = make("input", {
      type: "radio",
      name: "scenario",
      value: scenario.name,
      onchange: () => this.choose(scenario).catch((error) => this.say(error.message, true)),
    });
    return make(
      "label",
      { class: "scenario" },
      radio,
      make("span", {}, make("b", {}, scenario.title), make("span", { class: "soft" }, scenario.summary)),
    );
  }

  /** Show the settings of a scenario. */
  async choose(scenario) {
    this.scenario = scenario;
    this.form.elements.scenario.value = scenario.name;
    if (!this.schemas.has(scenario.game))
      this.schemas.set(scenario.game, get(`schema/${encodeURIComponent(scenario.game)}`));
    const schema = await this.schemas.get(scenario.game);
    if (this.closed || this.scenario !== scenario) return;
    this.settings = new SettingsForm(schema, scenario.content, () => this.change());
    const often = [
      this.settings.take("seed", "Seed", "Draws the homes"),
      scenario.content.population &&
        this.settings.take("population.homes", "Number of homes", "Each is a process of its own"),
      this.settings.take("leader.algorithm", "Algorithm", "By which the leader finds its price"),
      this.settings.take("leader.objective", "Objective", "What the leader wants"),
      this.settings.take("leader.max_rounds", "Rounds at most"),
    ];
    const search = make("input", {
      type: "search",
      placeholder: "Find a setting",
      "aria-label": "Find a setting",
      oninput: () => this.settings.filter(search.value.toLowerCase().split(/\s+/).filter(Boolean)),
    });
    this.settingsBox.replaceChildren(
      make(
        "section",
        { class: "card", "aria-label": "Important settings" },
        make("h2", {}, scenario.title),
        make("div", { class: "fields" }, often),
        this.options.element,
      ),
      make(
        "section",
        { class: "card all", "aria-label": "All other settings" },
        make("div", { class: "card-head" }, make("h2", {}, "All other settings"), search),
        this.settings.groups,
      ),
    );
    this.change();
  }

  /** Check again, once nothing was typed for a moment. */
  change() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check().catch((error) => this.say(error.message, true)), CHECK_MS);
  }

  async check() {
    const order = this.collect();
    const text = JSON.stringify(order);
    this.checking = text;
    const { scenario, set, faults } = order;
    const found = await post("check", { scenario, set, ...(faults && { faults }) });
    // What was typed meanwhile has a check of its own.
    if (this.closed || this.checking !== text) return false;
    const errors = [...this.options.findMistakes(), ...found.errors];
    const others = this.settings.showMistakes(this.options.showMistakes(errors));
    const count = errors.length;
    if (others.length)
      this.say(others.map(({ key, message }) => (key ? `${key}: ${message}` : message)).join("; "), true);
    else if (count) this.say(count === 1 ? "One setting is wrong." : `${count} settings are wrong.`, true);
    else {
      const sessions = found.sessions > 1 ? `, ${found.sessions} sessions` : "";
      this.say(
        [
          `${found.homes} homes, ${found.aggregators} ${found.aggregators === 1 ? "aggregator" : "aggregators"}, ${found.slots} ${found.slots === 1 ? "slot" : "slots"}${sessions}.`,
          ...found.doubts,
        ].join(" "),
      );
    }
    return count === 0;
  }

  async submit(event) {
    event.preventDefault();
    this.button.disabled = true;
    try {
      clearTimeout(this.timer);
      if (!(await this.check())) {
        this.form.querySelector("[aria-invalid]")?.focus();
        return;
      }
      this.say("The nodes are being started …");
      const { id } = await post("runs", this.collect());
      if (!this.closed) location.hash = `#/runs/${encodeURIComponent(id)}`;
    } catch (error) {
      const mistakes = [{ key: error.key ?? "", message: error.message }];
      const isPlaced =
        this.options.showMistakes(mistakes).length === 0 || this.settings.showMistakes(mistakes).length === 0;
      this.say(isPlaced ? "One setting is wrong." : error.message, true);
    } finally {
      this.button.disabled = false;
    }
  }

  collect() {
    return { scenario: this.scenario.name, set: this.settings.collect(), ...this.options.collect() };
  }

  say(text, isBad = false) {
    this.status.textContent = text;
    this.status.className = isBad ? "error" : "soft";
  }
}

/** Make the options of a run that are no keys of its scenario. */
function makeOptions(plans, onChange) {
  const plan = make(
    "select",
    { id: "faults", onchange: () => draw() },
    make("option", { value: "" }, "None"),
    plans.map((each) => make("option", { value: each.name }, each.title)),
  );
  const transport = make(
    "select",
    { id: "transport", onchange: () => draw() },
    make("option", { value: "mqtt" }, "MQTT"),
    make("option", { value: "memory" }, "In memory"),
  );
  const pace = make("input", {
    id: "pace_s",
    inputmode: "decimal",
    value: "1",
    oninput: onChange,
    autocomplete: "off",
  });
  const name = make("input", {
    id: "name",
    maxlength: "50",
    placeholder: "as the scenario",
    autocomplete: "off",
    oninput: onChange,
  });
  const certify = make("input", { id: "certify", type: "checkbox", checked: true });
  const errors = {};
  const field = (label, control, hint, wide = false) => {
    errors[control.id] = make("p", { class: "error", id: `${control.id}-error` });
    control.setAttribute("aria-describedby", `${control.id}-error`);
    return make(
      "div",
      { class: "field", "data-wide": wide },
      make("label", { for: control.id }, label),
      control,
      errors[control.id],
      make("p", { class: "soft hint" }, hint),
    );
  };
  const paceField = field("Pace (s)", pace, "The leader waits so long before each question");
  const element = make(
    "div",
    { class: "fields options" },
    field("Fault plan", plan, "Goes wrong by itself", true),
    field("Transport", transport, "Over MQTT, nodes are processes that can be harmed"),
    paceField,
    field("Name", name, "Of the run's folder"),
    make("div", { class: "field check" }, certify, make("label", { for: "certify" }, "Compute the certificate")),
  );
  function draw() {
    paceField.hidden = transport.value === "memory";
    onChange();
  }
  return {
    element,
    collect() {
      const order = { transport: transport.value, certify: certify.checked };
      if (plan.value) order.faults = plan.value;
      if (name.value.trim()) order.name = name.value.trim();
      if (transport.value === "mqtt") order.pace_s = Number(pace.value);
      return order;
    },
    /** Find what is no pace, and no name of a folder. */
    findMistakes() {
      const mistakes = [];
      const seconds = Number(pace.value);
      if (transport.value === "mqtt" && !(pace.value.trim() && seconds >= 0 && seconds <= 60))
        mistakes.push({ key: "pace_s", message: "give seconds from 0 to 60" });
      if (/^\.|\//.test(name.value.trim()))
        mistakes.push({ key: "name", message: "give a name without a slash that does not begin with a dot" });
      return mistakes;
    },
    /** Show mistakes beside the options that they are of. Gives those of none. */
    showMistakes(mistakes) {
      for (const [id, error] of Object.entries(errors)) {
        const found = mistakes.find(({ key }) => key === id);
        const control = element.querySelector(`#${id}`);
        error.textContent = found?.message ?? "";
        if (found) control.setAttribute("aria-invalid", "true");
        else control.removeAttribute("aria-invalid");
      }
      return mistakes.filter(({ key }) => !(key in errors));
    },
  };
}
