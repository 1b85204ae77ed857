// A frame opens larger; the arrow keys leaf through those beside it.
const viewer = document.getElementById("viewer");
let seen = null;
const show = (button) => {
  seen = button;
  viewer.querySelector("img").src = button.querySelector("img").src;
  viewer.querySelector("p").textContent = button.getAttribute("aria-label");
};
const go = (by) => {
  const all = [...seen.closest(".frames").querySelectorAll(".frame")];
  const next = all[all.indexOf(seen) + by];
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
viewer.addEventListener("close", () => { if (seen) seen.focus(); });
