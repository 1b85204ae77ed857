"use strict";
// Which trajectories are shown: what the form says, and what a count in a table sets.
const form = document.getElementById("filters");
const items = [...document.querySelectorAll(".item")];
const told = document.getElementById("shown");
const fits = (item) => {
  const { run, failure, category, text, differ } = form.elements;
  const outcomes = item.dataset.outcomes.split(" ").map((pair) => pair.split(":"));
  const mine = outcomes.filter(([number]) => !run.value || number === run.value);
  return mine.some(([, kind]) => !failure.value || kind === failure.value)
    && (!category.value || item.dataset.categories.split("|").includes(category.value))
    && (!differ.checked || "differ" in item.dataset)
    && item.textContent.toLowerCase().includes(text.value.toLowerCase());
};
const filter = () => {
  let shown = 0;
  for (const item of items) {
    item.hidden = !fits(item);
    shown += !item.hidden;
  }
  told.textContent = `${shown} of ${items.length} shown`;
};
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
document.addEventListener("click", (event) => {
  const count = event.target.closest("[data-failure]");
  if (!count) return;
  form.reset();
  form.elements.run.value = count.dataset.run;
  form.elements.failure.value = count.dataset.failure;
  setTimeout(filter); // behind the one that the reset asked for
});

// An address with the name of a question opens it.
const reveal = () => {
  const item = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (item instanceof HTMLDetailsElement) {
    item.open = true;
    item.hidden = false;
    item.scrollIntoView();
  }
};
addEventListener("hashchange", reveal);
filter();
reveal();
