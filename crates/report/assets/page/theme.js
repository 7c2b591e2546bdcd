// Light or dark: the system's setting until the button overrides it. The choice is stored and holds for every page of
// the same origin. Printing is always light.
const THEME = "nettriage-theme";
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const storedTheme = () => {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null; // Storage may be disabled.
  }
};
let chosenTheme = storedTheme();
const onTheme = [];
const setTheme = theme => {
  root.dataset.theme = theme;
  onTheme.forEach(redraw => redraw());
};
const applyTheme = () => setTheme(chosenTheme ?? (systemDark.matches ? "dark" : "light"));
applyTheme();

systemDark.addEventListener("change", applyTheme);
addEventListener("storage", event => {
  if (event.key !== THEME) return;
  chosenTheme = event.newValue;
  applyTheme();
});
$("#theme").addEventListener("click", () => {
  chosenTheme = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(THEME, chosenTheme);
  } catch {
    // The theme then lasts until the page is closed.
  }
  applyTheme();
});
addEventListener("beforeprint", () => setTheme("light"));
addEventListener("afterprint", applyTheme);
