"use strict";
// The line below the timeline says what is under the pointer or the focus.
const readout = document.getElementById("readout");
const key = readout.innerHTML;
const tell = (event) => {
  const mark = event.target.closest("[data-tip]");
  if (mark) readout.textContent = mark.dataset.tip;
};
const untell = () => { readout.innerHTML = key; };
const track = document.querySelector(".track");
track.addEventListener("pointerover", tell);
track.addEventListener("pointerleave", untell);
// Not on the drawing itself: a listener for focus would make it a stop for Tab.
track.parentElement.addEventListener("focusin", tell);
track.parentElement.addEventListener("focusout", untell);

// The glance marks are one stop for Tab; the arrow keys go from mark to mark.
const marks = [...track.querySelectorAll(".mark")];
track.addEventListener("keydown", (event) => {
  const at = marks.indexOf(document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: marks.length - 1 }[event.key];
  if (at < 0 || to === undefined || !marks[to]) return;
  event.preventDefault();
  marks[at].tabIndex = -1;
  marks[to].tabIndex = 0;
  marks[to].focus();
});

// A frame opens larger; the arrow keys leaf through the frames of its step.
const viewer = document.getElementById("viewer");
let shown = null;
const show = (button) => {
  shown = button;
  const image = viewer.querySelector("img");
  image.src = button.querySelector("img").src;
  viewer.querySelector("p").textContent = button.getAttribute("aria-label");
};
const go = (by) => {
  const all = [...shown.closest(".frames").querySelectorAll(".frame")];
  const next = all[all.indexOf(shown) + by];
  if (next) show(next);
};
document.addEventListener("click", (event) => {
  const button = event.target.closest(".frame");
  if (button) { show(button); viewer.showModal(); }
  if (event.target === viewer) viewer.close();
  const step = event.target.closest("[data-go]");
  if (step) go(Number(step.dataset.go));
});
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
});
viewer.addEventListener("close", () => { if (shown) shown.focus(); });
