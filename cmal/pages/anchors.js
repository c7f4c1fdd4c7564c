"use strict";
// Filters of the pairs, and the links from words to boxes, which are drawn where the browser put both.
const pairs = [...document.querySelectorAll(".pair")];
const state = document.getElementById("state");
const concept = document.getElementById("concept");
const count = document.getElementById("count");
const allRegions = document.getElementById("all-regions");

function matches(pair) {
  const rows = [...pair.querySelectorAll("[data-states]")];
  if (state.value === "none") return rows.length === 0 && !concept.value;
  if (!state.value && !concept.value) return true;
  return rows.some((row) =>
    (!concept.value || row.dataset.concept === concept.value) &&
    (!state.value || row.dataset.states.split(" ").includes(state.value)));
}

function drawLinks(pair) {
  const links = pair.querySelector(".links");
  const origin = pair.getBoundingClientRect();
  links.replaceChildren();
  for (const word of pair.querySelectorAll("mark")) {
    const from = word.getBoundingClientRect();
    for (const number of word.dataset.anchors.split(" ")) {
      const box = pair.querySelector(`[data-anchor="${number}"] rect`);
      const to = box.getBoundingClientRect();
      const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const [x1, y1] = [from.left + from.width / 2 - origin.left, from.top - origin.top];
      const [x2, y2] = [to.left + to.width / 2 - origin.left, to.bottom - origin.top];
      line.setAttribute("d", `M ${x1} ${y1} C ${x1} ${y1 - 30}, ${x2} ${y2 + 30}, ${x2} ${y2}`);
      line.setAttribute("stroke", box.getAttribute("stroke"));
      line.dataset.link = number;
      links.append(line);
    }
  }
}

function emphasise(pair, numbers) {
  for (const part of pair.querySelectorAll("[data-anchor], [data-link]")) {
    const own = part.dataset.anchor ?? part.dataset.link;
    part.classList.toggle("faint", numbers.length > 0 && !numbers.includes(own));
  }
}

function update() {
  let shown = 0;
  for (const pair of pairs) {
    pair.hidden = !matches(pair);
    if (!pair.hidden) { shown += 1; drawLinks(pair); }
  }
  count.textContent = `${shown} of ${pairs.length} pairs`;
}

for (const pair of pairs) {
  for (const word of pair.querySelectorAll("mark, [data-row]")) {
    const numbers = word.dataset.anchors?.split(" ") ?? [word.dataset.row];
    word.addEventListener("mouseenter", () => emphasise(pair, numbers));
    word.addEventListener("mouseleave", () => emphasise(pair, []));
  }
}
state.addEventListener("change", update);
concept.addEventListener("change", update);
allRegions.addEventListener("change", () => document.body.classList.toggle("with-regions", allRegions.checked));
window.addEventListener("resize", update);
window.addEventListener("load", update);
