// The details of a cell, on hover and on focus.
const tip = $("#tip");
const showTip = cell => {
  tip.textContent = cell.dataset.tip;
  tip.hidden = false;
  const [at, own] = [cell.getBoundingClientRect(), tip.getBoundingClientRect()];
  const left = Math.min(Math.max(8, at.left + at.width / 2 - own.width / 2), innerWidth - own.width - 8);
  const above = at.top - own.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 50 ? above : Math.min(at.bottom + 8, innerHeight - own.height - 8)}px`;
};
const hideTip = () => (tip.hidden = true);
for (const cell of $$("[data-tip]")) {
  cell.addEventListener("mouseenter", () => showTip(cell));
  cell.addEventListener("mouseleave", hideTip);
  cell.addEventListener("focus", () => {
    cell.setAttribute("aria-describedby", "tip");
    showTip(cell);
  });
  cell.addEventListener("blur", () => {
    cell.removeAttribute("aria-describedby");
    hideTip();
  });
}
addEventListener("keydown", event => {
  if (event.key === "Escape") hideTip();
});
addEventListener("scroll", hideTip, { passive: true });
