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
