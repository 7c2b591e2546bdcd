"""Opens a report in Chromium and uses it as a reader would.

    python checks/page.py report.html [folder for screenshots]

At widths of 1280 and 390 pixels, in the light and the dark theme: no console error and no network request; every section exists;
no element is wider than the window; tables sort; hover and focus show a tooltip; every option of every plot draws; downloads
are complete. Needs the package `playwright` and Chromium (path in CHROMIUM, default /usr/bin/chromium).
"""

import os
import pathlib
import sys

from playwright.sync_api import sync_playwright

SECTIONS = ["answer", "matrix", "curves", "findings", "cost", "controls", "classes", "calibration", "filters", "similarity", "method"]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
# Elements wider than the window; tables and code may scroll inside their own boxes.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push(`page ${document.documentElement.scrollWidth}`);
  for (const element of document.querySelectorAll('main *')) {
    if (element.closest('.scroll, pre, svg')) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > width + 1 || box.left < -1)) found.push(`${element.tagName}.${element.className}`);
  }
  return found;
}"""


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def check_page(browser, page_file, width, theme, shots):
    name = f"{width}-{theme}"
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=theme, accept_downloads=True)
    page = context.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(f"request {request.url[:80]}") if not request.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(page_file.as_uri())
    page.wait_for_timeout(300)
    for section in SECTIONS:
        require(page.locator(f"section#{section}").count() == 1, f"{name}: no section {section}")
    require(page.locator("article.verdict").count() == 3, f"{name}: not three verdicts")
    require(page.evaluate(OVERFLOW) == [], f"{name}: too wide: {page.evaluate(OVERFLOW)}")
    for plot in page.locator("figure .plot").all():
        require(plot.locator("svg").count() > 0, f"{name}: an empty plot")
    # Images of the data set: the patches with the largest activations, and images whose prediction changes.
    require(page.locator("#filters .patches img").count() > 0, f"{name}: no patches")
    require(page.locator("#classes .thumb img").count() > 0, f"{name}: images whose prediction changes")
    if shots:
        page.screenshot(path=shots / f"{name}-first.png")
        page.screenshot(path=shots / f"{name}.png", full_page=True)

    # Every table has headings to sort by.
    for table in page.locator("main table").all():
        require(table.locator(".sort").count() > 0, f"{name}: a table that does not sort")

    # A table that is wider than its box says that it scrolls.
    hinted = """() => [...document.querySelectorAll('.scroll:not(.scrolled)')].filter(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 4)
      .every(box => getComputedStyle(box, '::before').content.includes('scroll'))"""
    require(page.evaluate(hinted), f"{name}: a wide table without a hint")

    # Sorting: the last column, largest first, then smallest first.
    heads = page.locator("#matrix .sort")
    last = heads.nth(heads.count() - 1)
    values = lambda: page.eval_on_selector_all("#matrix tbody tr", "rows => rows.map(row => row.lastElementChild.dataset.value).filter(value => value != null).map(Number)")
    last.click()
    require(values() == sorted(values(), reverse=True), f"{name}: not sorted in descending order")
    last.click()
    require(values() == sorted(values()), f"{name}: not sorted in ascending order")
    last.click()

    # Hover and focus show a cell's tooltip; Escape hides it.
    cell, tip = page.locator("#matrix td[data-tip]").first, page.locator("#tip")
    cell.scroll_into_view_if_needed()
    cell.hover()
    require(tip.is_visible() and " pp" in tip.inner_text(), f"{name}: no tooltip on hover")
    page.keyboard.press("Escape")
    require(not tip.is_visible(), f"{name}: Escape does not hide the tooltip")
    cell.focus()
    require(tip.is_visible(), f"{name}: no tooltip on focus")
    focused = lambda: page.evaluate("[document.activeElement.parentNode.rowIndex, document.activeElement.cellIndex]")
    row, column = focused()
    page.keyboard.press("ArrowDown")
    require(focused() == [row + 1, column], f"{name}: arrow down moves to {focused()}")
    page.keyboard.press("ArrowRight")
    require(focused() == [row + 1, column + 1], f"{name}: arrow right moves to {focused()}")
    page.keyboard.press("Escape")

    # Every option draws without an error.
    for select in page.locator("figure select").all():
        for value in select.locator("option").evaluate_all("options => options.map(option => option.value)"):
            select.select_option(value)
    for details in page.locator("details > summary").all():
        details.click()
    require(page.evaluate(OVERFLOW) == [], f"{name}: too wide when opened: {page.evaluate(OVERFLOW)}")
    page.wait_for_timeout(100)  # The hint follows the layout.
    require(page.evaluate(hinted), f"{name}: a wide table without a hint when opened")
    page.locator("#theme").click()
    require(page.evaluate("document.documentElement.dataset.theme") != theme, f"{name}: the theme does not change")

    # Every plot can be downloaded.
    for button in page.locator(".tools button").all():
        with page.expect_download() as waiting:
            button.click()
        text = pathlib.Path(waiting.value.path()).read_text(encoding="utf-8")
        complete = text.startswith("<svg") and text.endswith("</svg>") if button.inner_text() == "SVG" else text.count("\n") > 1
        require(complete, f"{name}: {waiting.value.suggested_filename}")
        page.wait_for_timeout(150)  # Chromium drops what exceeds ten downloads a second
    # The theme is kept on reload.
    page.reload()
    require(page.evaluate("document.documentElement.dataset.theme") != theme, f"{name}: the theme is not kept on reload")
    require(problems == [], f"{name}: {problems}")
    context.close()


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: page.py report.html [folder for screenshots]")
    page_file = pathlib.Path(sys.argv[1]).resolve()
    shots = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else None
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
        for width in (1280, 390):
            for theme in ("light", "dark"):
                check_page(browser, page_file, width, theme, shots)
                print(f"{width} pixels, {theme}: passed")
        browser.close()


if __name__ == "__main__":
    main()
