// Elements of the document, made in one line.

/** Make an element. `on…` attributes are listeners; null, undefined and false are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Make a table with a caption. Numbers are set right. */
export function makeTable(caption, head, rows) {
  const cell = (value) => make("td", { class: typeof value === "number" && "number" }, showCell(value));
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        head.map((text) => make("th", { scope: "col" }, text)),
      ),
    ),
    make(
      "tbody",
      {},
      rows.map((row) => make("tr", {}, row.map(cell))),
    ),
  );
}

function showCell(value) {
  if (value === null || value === undefined) return "–";
  return value instanceof Node ? value : showNumber(value);
}

/** Write a number with three or four digits that count; give back what is none. */
export function showNumber(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size > 0 && size < 0.001) return value.toExponential(1);
  return value.toLocaleString("en", { maximumFractionDigits: size < 1 ? 4 : size < 100 ? 2 : 1 }).replace("-", "−");
}

/** Write a time of the past as an element: how long ago, within a day. */
export function showTime(iso) {
  if (!iso) return "";
  const time = new Date(iso);
  const minutes = Math.floor((Date.now() - time) / 60_000);
  const date = time.toLocaleString("en-GB", {
    day: "numeric",
    month: "short",
    year: "numeric",
    hour: "2-digit",
    minute: "2-digit",
  });
  const ago =
    minutes < 1
      ? "just now"
      : minutes < 60
        ? `${minutes} min ago`
        : minutes < 1440
          ? `${Math.floor(minutes / 60)} h ago`
          : date;
  return make("time", { datetime: iso, title: date }, ago);
}
