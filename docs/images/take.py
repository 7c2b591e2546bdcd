"""Takes the figures of docs/report.md from the report of a digits run, and that of docs/prescribe.md from a page of several networks, in Chromium.

    nettriage run studies/digits.toml --out target/digits
    python docs/images/take.py target/digits/report.html
    nettriage prescribe target/digits --front 6 --epochs 50 -o target/front.onnx
    python docs/images/take.py target/front.html

Needs the package `playwright` and a Chromium (path in CHROMIUM, default /usr/bin/chromium). Each figure stays below 200 KB.
"""

import os
import pathlib
import sys

from playwright.sync_api import sync_playwright

# Name of the figure: selector of the element, and its largest height in pixels.
FIGURES = {
    "answer": ("#answer", 862),
    "verdicts": ("#answer .verdicts", 500),
    "matrix": ("#matrix", 1000),
    "curves": ("#curves", 1000),
    "recovery": ("#findings figure", 800),
    "cost": ("#cost", 1000),
    "classes": ("#classes", 330),
    "filters": ("#filters", 720),
    "similarity": ("#similarity", 1000),
}
FRONT = {"front": ("figure.front svg >> nth=0", 700)}
LARGEST = 200_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main(report):
    folder = pathlib.Path(__file__).resolve().parent
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1080, "height": 860}, color_scheme="light")
        page.goto(pathlib.Path(report).resolve().as_uri())
        page.wait_for_load_state("networkidle")
        # Headings that stay at the top of the window would cover the sections.
        page.add_style_tag(content="header { position: static !important }")
        for name, (selector, height) in (FIGURES if page.locator("#matrix").count() else FRONT).items():
            element = page.locator(selector).last
            element.scroll_into_view_if_needed()
            page.evaluate("window.scrollTo(0, 0)")
            box = element.bounding_box()
            clip = {"x": max(box["x"] - 8, 0), "y": box["y"], "width": box["width"] + 16, "height": min(box["height"], height)}
            path = folder / f"{name}.png"
            page.screenshot(path=path, clip=clip, full_page=True)
            if path.stat().st_size > LARGEST:
                sys.exit(f"{path}: {path.stat().st_size} bytes, more than {LARGEST}: reduce its height in FIGURES")
            print(f"{path}: {path.stat().st_size} bytes")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
