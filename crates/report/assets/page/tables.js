// Sorting: click a heading for descending, ascending, and the original order. Arrow keys move through a matrix.
const NUMBER = /^[+-]?\d+(\.\d+)?(e[+-]?\d+)?%?$/i;
const sortValue = cell => {
  if (cell.dataset.value != null) return +cell.dataset.value;
  const text = cell.textContent.trim();
  if (["", "–", "-", "·", "no control"].includes(text)) return null;
  const plain = text.replaceAll("−", "-").replace(/[\s\u202f]/g, "");
  return NUMBER.test(plain) ? parseFloat(plain) : text;
};
const compareValues = (a, b) =>
  typeof a === "number" && typeof b === "number"
    ? a - b
    : String(a).localeCompare(String(b), undefined, { numeric: true });

const makeSortable = table => {
  const rows = $$("tbody tr", table);
  for (const button of $$(".sort", table))
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const column = [...head.parentNode.children].indexOf(head);
      const next = { none: "descending", descending: "ascending", ascending: "none" }[head.ariaSort ?? "none"];
      $$("th[aria-sort]", table).forEach(other => other.removeAttribute("aria-sort"));
      if (next !== "none") head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const compare = (one, other) => {
        const [a, b] = [sortValue(one.children[column]), sortValue(other.children[column])];
        return a == null || b == null ? (a == null) - (b == null) : sign * compareValues(a, b);
      };
      $("tbody", table).append(...(next === "none" ? rows : [...rows].sort(compare)));
    });
};
$$("table").forEach(makeSortable);

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
for (const table of $$("table.matrix")) {
  const cells = $$("td[tabindex]", table);
  // One cell takes part in the tab order; the arrow keys reach the others.
  cells.slice(1).forEach(cell => (cell.tabIndex = -1));
  table.addEventListener("focusin", event => {
    if (!cells.includes(event.target)) return;
    cells.forEach(cell => (cell.tabIndex = cell === event.target ? 0 : -1));
  });
  table.addEventListener("keydown", event => {
    const step = STEPS[event.key];
    if (!step || !cells.includes(event.target)) return;
    event.preventDefault();
    const rows = $$("tbody tr", table);
    let row = rows.indexOf(event.target.parentNode) + step[0];
    let column = [...event.target.parentNode.children].indexOf(event.target) + step[1];
    while (rows[row]?.children[column]) {
      const cell = rows[row].children[column];
      if (cells.includes(cell)) return cell.focus();
      row += step[0];
      column += step[1];
    }
  });
}

// A table wider than its box says so until it has been scrolled.
const showScrollHint = box => box.classList.toggle("overflows", box.scrollWidth > box.clientWidth + 4);
const scrollHints = new ResizeObserver(entries => entries.forEach(entry => showScrollHint(entry.target)));
const hintScroll = box => {
  scrollHints.observe(box);
  box.addEventListener("scroll", () => box.classList.add("scrolled"), { once: true, passive: true });
};
$$(".scroll").forEach(hintScroll);
// The size of a box in closed details is known only once they open.
addEventListener("toggle", event => $$(".scroll", event.target).forEach(showScrollHint), true);
