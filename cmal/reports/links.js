"use strict";
// Lines from anchor words to their boxes, drawn where the browser put both, and boxes that stand out under the pointer.
{
  const pairs = [...document.querySelectorAll(".pair")];
  const allRegions = document.getElementById("all-regions");

  const drawLinks = (pair) => {
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
  };

  const emphasise = (pair, numbers) => {
    for (const part of pair.querySelectorAll("[data-anchor], [data-link]")) {
      const own = part.dataset.anchor ?? part.dataset.link;
      part.classList.toggle("faint", numbers.length > 0 && !numbers.includes(own));
    }
  };

  const drawAll = () => pairs.filter((pair) => !pair.hidden).forEach(drawLinks);

  for (const pair of pairs) {
    for (const part of pair.querySelectorAll("mark, [data-row]")) {
      const numbers = part.dataset.anchors?.split(" ") ?? [part.dataset.row];
      part.addEventListener("mouseenter", () => emphasise(pair, numbers));
      part.addEventListener("mouseleave", () => emphasise(pair, []));
    }
  }
  allRegions.addEventListener("change", () => document.body.classList.toggle("with-regions", allRegions.checked));
  document.addEventListener("filtered", drawAll);
  window.addEventListener("resize", drawAll);
}
