"use strict";
const steps = JSON.parse(document.getElementById("data").textContent);
const svg = document.getElementById("tree"), slider = document.getElementById("step");
const make = (name, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};
const cells = (table, rows) => {
  table.replaceChildren(...rows.map((row, number) => {
    const line = document.createElement("tr");
    line.append(...row.map((value) => {
      const cell = document.createElement(number ? "td" : "th");
      cell.textContent = value;
      return cell;
    }));
    return line;
  }));
};

// Children stand under their parent in the order of their actions; leaves take one column each.
function layout(step) {
  const children = step.parent.map(() => []), place = [];
  step.parent.forEach((parent, node) => { if (parent >= 0) children[parent].push(node); });
  let column = 0;
  const visit = (node, depth) => {
    const below = children[node].sort((a, b) => step.action[a] - step.action[b]).map((child) => visit(child, depth + 1));
    const x = below.length ? (below[0] + below[below.length - 1]) / 2 : column++;
    place[node] = { x, depth };
    return x;
  };
  visit(0, 0);
  return { place, columns: column, depth: Math.max(...place.map((each) => each.depth)) };
}

function showNode(step, node) {
  cells(document.getElementById("node"), [
    ["node", "action", "N", "Q", "P", "V", "reward"],
    [node, node ? step.action[node] : "root", step.N[node], node ? step.Q[node] : step.value, step.P[node], step.V[node],
      step.reward[node]],
  ]);
}

function show(number) {
  const step = steps[number], { place, columns, depth } = layout(step), line = new Set(step.line);
  const width = Math.max(600, columns * 34), height = 80 + depth * 74;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", Math.min(height, 720));
  const x = (node) => 20 + (place[node].x + 0.5) * ((width - 40) / columns), y = (node) => 30 + place[node].depth * 74;
  const edges = [], nodes = [];
  step.parent.forEach((parent, node) => {
    const bold = line.has(node);
    const colour = bold ? "var(--c1)" : "var(--muted)";
    if (parent >= 0) {
      edges.push(make("line", { x1: x(parent), y1: y(parent), x2: x(node), y2: y(node), stroke: colour, "stroke-width": bold ? 4 : 1 }));
      edges.push(make("text", { x: (x(parent) + x(node)) / 2 + 3, y: (y(parent) + y(node)) / 2, fill: "var(--muted)", "font-size": 10 }, step.action[node]));
    }
    const circle = make("circle", {
      cx: x(node), cy: y(node), r: 5 + 10 * Math.sqrt(step.N[node] / step.N[0]), fill: bold ? "var(--c1)" : "var(--c0)",
      "data-node": node, style: "cursor:pointer",
    });
    circle.append(make("title", {}, `N ${step.N[node]}  Q ${step.Q[node]}  P ${step.P[node]}  V ${step.V[node]}`));
    circle.addEventListener("click", () => showNode(step, node));
    nodes.push(circle);
    nodes.push(make("text", { x: x(node), y: y(node) + 27, fill: "var(--ink)", "font-size": 9, "text-anchor": "middle" }, step.Q[node].toFixed(2)));
  });
  svg.replaceChildren(...edges, ...nodes);
  showNode(step, 0);
  const root = step.parent.map((parent, node) => node).filter((node) => step.parent[node] === 0);
  root.sort((a, b) => step.N[b] - step.N[a]);
  cells(document.getElementById("root"), [
    ["action of the root", "N", "Q", "P", "V", "reward"],
    ...root.map((node) => [step.action[node], step.N[node], step.Q[node], step.P[node], step.V[node], step.reward[node]]),
  ]);
  const taken = Array.isArray(step.taken) ? step.taken.map((value) => value.toFixed(3)).join(", ") : step.taken;
  document.getElementById("where").textContent =
    `step ${number + 1} of ${steps.length}: value ${step.value}, best ${step.best}, taken ${taken}, reward received ${step.got}`;
  slider.value = number;
}

const move = (by) => show(Math.min(steps.length - 1, Math.max(0, Number(slider.value) + by)));
slider.addEventListener("input", () => show(Number(slider.value)));
document.getElementById("back").addEventListener("click", () => move(-1));
document.getElementById("on").addEventListener("click", () => move(1));
document.addEventListener("keydown", (event) => {
  if (event.target === slider) return;
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight") move(1);
});
show(0);
