// Values under the pointer, or under a cursor that the arrow keys move. Without this script the figures are figures.
const readings = JSON.parse(document.getElementById("readings").textContent);
const box = document.body.appendChild(Object.assign(document.createElement("div"), { id: "reading", hidden: true }));

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function equip(svg, panels) {
  const line = document.createElementNS(svg.namespaceURI, "path");
  line.setAttribute("stroke", "currentColor");
  line.setAttribute("stroke-width", "0.6");
  line.setAttribute("stroke-dasharray", "2 2");
  let panel = panels[0], place = -1;

  function hide() {
    box.hidden = true;
    line.remove();
    place = -1;
  }

  function show(next) {
    place = Math.max(0, Math.min(panel.x.length - 1, next));
    const x = panel.x[place];
    const together = panels.filter((other) => other.x.length === panel.x.length && other.x[place] === x);
    line.setAttribute("d", together.map(({ box: [, top, , bottom] }) => `M${x} ${top}V${bottom}`).join(""));
    svg.append(line);
    const table = document.createElement("table");
    for (const { curves, unit } of together) {
      for (const [label, values] of curves) {
        if (values[place] === "") continue;
        const row = table.insertRow();
        row.append(element("th", label), element("td", unit ? `${values[place]} ${unit}` : values[place]));
      }
    }
    box.replaceChildren(element("b", panel.names[place]), table);
    box.hidden = false;
    const at = new DOMPoint(x, panel.box[1]).matrixTransform(svg.getScreenCTM());
    const width = document.documentElement.clientWidth;
    const right = at.x + 14 + box.offsetWidth < width;
    box.style.left = `${Math.max(4, right ? at.x + 14 : at.x - 14 - box.offsetWidth)}px`;
    box.style.top = `${Math.max(4, Math.min(innerHeight - box.offsetHeight - 4, at.y))}px`;
  }

  function point(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const over = panels.filter(({ box: [left, , right] }) => left <= at.x && at.x <= right);
    const found = over.find(({ box: [, top, , bottom] }) => top <= at.y && at.y <= bottom) ?? over[0];
    if (found === undefined) return hide();
    panel = found;
    const far = panel.x.map((x) => Math.abs(x - at.x));
    show(far.indexOf(Math.min(...far)));
  }

  svg.tabIndex = 0;
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") hide();
    if (step === undefined) return;
    event.preventDefault();
    show(place + step);
  });
}

for (const svg of document.querySelectorAll("figure svg")) {
  const panels = readings[svg.dataset.name] ?? [];
  if (panels.length > 0) equip(svg, panels);
}

// One home at a time, as the reader chooses.
function showHomes({ slots, homes }) {
  const choice = document.getElementById("home");
  const facts = document.getElementById("home-facts");
  const charts = document.getElementById("home-charts");

  function show() {
    const home = homes[choice.value];
    facts.replaceChildren(...home.facts.map(([label, value]) => {
      const fact = element("dd", "");
      fact.append(Object.assign(element("div", value), { className: "value" }));
      const pair = document.createElement("div");
      pair.append(element("dt", label), fact);
      return pair;
    }));
    facts.hidden = home.facts.length === 0;
    charts.replaceChildren(...home.charts.map((chart) => drawChart(slots, chart)));
  }

  choice.addEventListener("change", show);
  for (const id of ["home-by-home", "to-homes"]) document.getElementById(id).hidden = false;
  show();
}

const COLORS = ["--blue", "--vermilion", "--green", "--orange", "--purple", "--sky", "--grey"];
const [WIDE, HIGH, LEFT, BELOW, ABOVE] = [480, 210, 48, 24, 8];

function drawChart(slots, { unit, curves }) {
  const figure = document.createElement("figure");
  const caption = element("figcaption", "");
  const svg = figure.appendChild(draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" }));
  svg.setAttribute("aria-label", `${curves.map(([label]) => label).join(", ")} (${unit}) of this home, slot by slot`);
  const values = curves.flatMap(([, numbers]) => numbers).filter((value) => value !== null);
  const warm = unit === "°C";
  const ticks = chooseTicks(Math.min(warm ? Infinity : 0, ...values), Math.max(warm ? -Infinity : 0, ...values));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const across = (WIDE - LEFT - 8) / slots.length;
  const x = (slot) => LEFT + slot * across;
  const y = (value) => ABOVE + (HIGH - ABOVE - BELOW) * (high - value) / (high - low);
  for (const tick of ticks) {
    svg.append(draw("path", { class: "line", d: `M${LEFT} ${y(tick)}H${WIDE - 8}` }));
    svg.append(draw("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, String(+tick.toPrecision(6))));
  }
  const every = Math.ceil(slots.length / 6);
  for (let slot = 0; slot < slots.length; slot += every) {
    const name = slots.length > 48 ? slots[slot].split(" ").slice(1, 3).join(" ") : slots[slot].split(" ").at(-1);
    svg.append(draw("text", { x: x(slot), y: HIGH - 6, "text-anchor": "middle" }, name));
  }
  caption.append(element("b", unit ? `In ${unit}:` : ""));
  curves.forEach(([label, numbers], place) => {
    const color = `var(${COLORS[place % COLORS.length]})`;
    const path = numbers.map((value, slot) => value === null ? "" : `${slot && numbers[slot - 1] !== null ? "L" : "M"}${x(slot)} ${y(value)}H${x(slot + 1)}`);
    const curve = svg.appendChild(draw("path", { class: "curve", d: path.join("") }));
    curve.style.stroke = color;
    const key = Object.assign(document.createElement("span"), { className: "key" });
    key.style.borderColor = color;
    caption.append(key, label);
  });
  figure.prepend(caption);
  const texts = curves.map(([label, numbers]) => [label, numbers.map((value) => value === null ? "" : String(value))]);
  const middles = slots.map((_, slot) => x(slot + 0.5));
  equip(svg, [{ box: [LEFT, ABOVE, WIDE - 8, HIGH - BELOW], x: middles, names: slots, unit, curves: texts }]);
  return figure;
}

function draw(name, attributes, text = "") {
  const drawn = document.createElementNS(document.querySelector("figure svg, svg").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) drawn.setAttribute(key, value);
  drawn.textContent = text;
  return drawn;
}

function chooseTicks(low, high) {
  if (low === high) [low, high] = [low - 1, high + 1];
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const first = Math.floor(low / step + 1e-9);
  const count = Math.ceil(high / step - 1e-9) - first;
  return Array.from({ length: count + 1 }, (_, place) => (first + place) * step);
}

const told = document.getElementById("homes");
if (told !== null) showHomes(JSON.parse(told.textContent));
