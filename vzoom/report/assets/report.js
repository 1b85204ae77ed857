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
