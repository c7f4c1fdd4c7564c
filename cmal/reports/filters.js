"use strict";
// Shows the cards that have an item (an element with data-states and data-concept) of the chosen state and concept.
const cards = [...document.querySelectorAll(".pair")];
const state = document.getElementById("state");
const concept = document.getElementById("concept");
const count = document.getElementById("count");

function matches(card) {
  const items = [...card.querySelectorAll("[data-states]")];
  if (state.value === "none") return items.length === 0 && !concept.value;
  if (!state.value && !concept.value) return true;
  return items.some((item) =>
    (!concept.value || item.dataset.concept === concept.value) &&
    (!state.value || item.dataset.states.split(" ").includes(state.value)));
}

function update() {
  for (const card of cards) card.hidden = !matches(card);
  const shown = cards.filter((card) => !card.hidden).length;
  count.textContent = `${shown} of ${cards.length}`;
  document.dispatchEvent(new Event("filtered"));
}

state.addEventListener("change", update);
concept.addEventListener("change", update);
window.addEventListener("load", update);
