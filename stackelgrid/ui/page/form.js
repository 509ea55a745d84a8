// The settings of a scenario as a form, made from the JSON Schema of its game.

import { make } from "./dom.js";

/** Keys that say what the file is. */
const FIXED = ["schema", "game"];
const SIMPLE = ["number", "integer", "string", "boolean"];

/** The fields of a scenario with `content`; `onChange()` tells that one has changed. */
export class SettingsForm {
  constructor(schema, content, onChange) {
    this.schema = schema;
    this.onChange = onChange;
    this.fields = new Map();
    this.groups = this.makeGroup(schema, content, []);
  }

  /** Take a field out of its group, to show it elsewhere. None where the scenario has no such key. */
  take(key, label, hint) {
    const field = this.fields.get(key);
    if (field === undefined) return null;
    field.element.remove();
    field.isTaken = true;
    field.label.replaceChildren(label);
    if (hint) field.hint.textContent = hint;
    field.hint.hidden = !hint;
    return field.element;
  }

  /** The values that were changed, by key. */
  collect() {
    const changed = [...this.fields.values()].filter((field) => field.isChanged());
    return Object.fromEntries(changed.map((field) => [field.key, field.read()]));
  }

  /** Show mistakes beside the fields that they are of. Gives those of no field. */
  showMistakes(mistakes) {
    for (const field of this.fields.values()) field.complain("");
    return mistakes.filter(({ key, message }) => {
      const field = this.findField(key);
      field?.complain(field.key === key ? message : `${key}: ${message}`);
      return field === undefined;
    });
  }

  /** Show of the fields in their groups only those whose key has all of `words`. */
  filter(words) {
    for (const field of this.fields.values())
      field.element.hidden = !field.isTaken && !words.every((word) => field.key.includes(word));
    for (const group of this.groups.querySelectorAll("details")) {
      group.hidden = !group.querySelector(".field:not([hidden])");
      group.open = words.length > 0 && !group.hidden;
    }
  }

  /** Find the field of a key, or of what the key is within. */
  findField(key) {
    const parts = key.split(".");
    while (parts.length && !this.fields.has(parts.join("."))) parts.pop();
    return this.fields.get(parts.join("."));
  }

  makeGroup(schema, content, path) {
    const entries = Object.entries(schema.properties).filter(([key]) => path.length || !FIXED.includes(key));
    const simple = [];
    const nested = [];
    for (const [key, property] of entries) {
      const inner = this.resolve(property);
      const value = content?.[key];
      const here = [...path, key];
      if (inner.properties && inner.type === "object" && !Array.isArray(value))
        nested.push(this.makeNested(inner, value, here));
      else {
        const field = new Field(here, inner, value, this.onChange);
        this.fields.set(field.key, field);
        simple.push(field.element);
      }
    }
    return make("div", { class: "group" }, simple.length > 0 && make("div", { class: "fields" }, simple), nested);
  }

  makeNested(schema, content, path) {
    const about = explain(schema.description);
    return make(
      "details",
      {},
      make("summary", {}, sayKey(path.at(-1)), !content && make("span", { class: "soft" }, " not set")),
      about && make("p", { class: "soft about" }, about),
      this.makeGroup(schema, content, path),
    );
  }

  /** Follow references, and leave null out of what may be null. */
  resolve(schema) {
    if (schema.$ref)
      return { ...this.resolve(this.schema.$defs[schema.$ref.split("/").at(-1)]), ...schema, $ref: undefined };
    const some = (schema.anyOf ?? []).filter((each) => each.type !== "null");
    if (schema.anyOf && some.length === 1) return { ...this.resolve(some[0]), default: schema.default };
    return schema;
  }
}

/** A key of the scenario: its label, a control, and what is wrong with it. */
class Field {
  constructor(path, schema, value, onChange) {
    this.key = path.join(".");
    this.schema = schema;
    const id = `set-${this.key}`;
    this.control = this.makeControl(id, value);
    this.before = this.control.value;
    this.control.addEventListener("input", onChange);
    this.control.setAttribute("aria-describedby", `${id}-error ${id}-hint`);
    this.label = make("label", { for: id }, sayKey(path.at(-1)));
    this.hint = make(
      "p",
      { class: "soft hint", id: `${id}-hint` },
      explain(schema.description) || (path.length > 1 ? this.key : ""),
    );
    this.error = make("p", { class: "error", id: `${id}-error` });
    this.element = make(
      "div",
      { class: "field", "data-wide": this.control.tagName === "TEXTAREA" },
      this.label,
      this.control,
      this.error,
      this.hint,
    );
  }

  isChanged() {
    return this.control.value !== this.before;
  }

  /** Read the value: a number, a list, a word; null where the field was emptied. */
  read() {
    const text = this.control.value.trim();
    if (text === "") return null;
    if (this.schema.type === "string" && !this.schema.enum) return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  complain(message) {
    this.error.textContent = message;
    if (!message) this.control.removeAttribute("aria-invalid");
    else {
      this.control.setAttribute("aria-invalid", "true");
      for (let group = this.element.closest("details"); group; group = group.parentElement.closest("details"))
        group.open = true;
    }
  }

  makeControl(id, value) {
    const { type, enum: choices, default: preset } = this.schema;
    const text = show(value);
    const placeholder = preset === undefined || preset === null ? "" : show(preset);
    if (choices || type === "boolean") {
      const options = (choices ?? [true, false]).map(show);
      const usual = value === undefined || value === null ? placeholder : text;
      const select = make(
        "select",
        { id },
        !options.includes(usual) && make("option", { value: "" }, "not set"),
        options.map((each) => make("option", { value: each }, each)),
      );
      select.value = usual;
      return select;
    }
    if (SIMPLE.includes(type) || (type === undefined && text.length < 60)) {
      const numeric = type === "number" || type === "integer";
      return make("input", {
        id,
        value: text,
        placeholder,
        autocomplete: "off",
        spellcheck: "false",
        inputmode: numeric && "decimal",
      });
    }
    return make("textarea", {
      id,
      rows: String(Math.min(12, Math.max(2, text.split("\n").length))),
      placeholder,
      spellcheck: "false",
      value: text,
    });
  }
}

/** Write a value as one reads and types it: words bare, lists of objects an item a line. */
function show(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value;
  const isTable = Array.isArray(value) && value.some((each) => typeof each === "object");
  if (isTable) return `[\n${value.map((each) => ` ${JSON.stringify(each)}`).join(",\n")}\n]`;
  return JSON.stringify(value);
}

function sayKey(key) {
  const words = key
    .replaceAll("_", " ")
    .replace(/ kwh\b/, " (kWh)")
    .replace(/ kw\b/, " (kW)")
    .replace(/ mw\b/, " (MW)")
    .replace(/ s$/, " (s)");
  return words[0].toUpperCase() + words.slice(1);
}

/** The first sentence of a docstring, without its marks. */
function explain(text = "") {
  const first = text.split("\n\n")[0].replaceAll("\n", " ").replaceAll("`", "");
  return first.replace(/ ?\[[A-Z]+-\w+\]/g, "").trim();
}
