#!/usr/bin/env python3
"""Checks every internal link of the book, of README.md and of the other Markdown files in the root.

    checks/links.py                       # the Markdown files
    checks/links.py --book target/book    # and the HTML that `mdbook build docs` wrote there

A link is broken if its file does not exist, if its anchor is no heading there, or if a page of the book is missing in SUMMARY.md.
Links to other sites are not followed. Prints one line per broken link; exit code 1 if there is one.
"""

import argparse
import html.parser
import pathlib
import re
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^\s)>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\s{0,3}\[[^\]]+\]:\s*<?(\S+?)>?\s*$")
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")


def prose(path):
    """Pairs of line number and line, without blocks of code, fenced or indented, and without code in a line."""
    fence, blank = None, True
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark = re.match(r"\s{0,3}(```+|~~~+)", line)
        if fence:
            fence = None if mark and mark[1].startswith(fence) else fence
        elif mark:
            fence = mark[1]
        elif not (line.startswith("    ") and blank):
            yield number, re.sub(r"`[^`]*`", lambda code: "`" * len(code[0]), line)
            blank = not line.strip()


def anchors(path):
    """The anchors of a Markdown file's headings, as mdBook and GitHub make them."""
    found, text = set(), path.read_text(encoding="utf-8").splitlines()
    for number, _ in prose(path):
        heading = HEADING.match(text[number - 1])
        if not heading:
            continue
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2]).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        while name in found:
            base, _, count = name.rpartition("-")
            name = f"{base}-{int(count) + 1}" if base and count.isdigit() else f"{name}-1"
        found.add(name)
    return found


def local(target):
    """Path and anchor of a link within the repository; nothing for one to another site."""
    parts = urllib.parse.urlsplit(target)
    return None if parts.scheme or parts.netloc else (urllib.parse.unquote(parts.path), urllib.parse.unquote(parts.fragment))


def markdown_links(path):
    for number, line in prose(path):
        reference = REFERENCE.match(line)
        for target in [reference[1]] if reference else [match[1] for match in LINK.finditer(line)]:
            yield number, target


def check_markdown(files, book):
    problems, known = [], {}
    for path in files:
        for number, target in markdown_links(path):
            link = local(target)
            if link is None:
                continue
            to = (path.parent / link[0]).resolve() if link[0] else path
            place = f"{path.relative_to(ROOT)}:{number}: {target}"
            if not to.exists():
                problems.append(f"{place}: there is no such file")
            elif book in path.parents and book not in to.parents:
                problems.append(f"{place}: leaves the book, so the page that is built from it has a broken link")
            elif link[1] and to.suffix == ".md" and link[1] not in known.setdefault(to, anchors(to)):
                problems.append(f"{place}: there is no heading with this anchor")
    return problems


def check_summary(book):
    summary = book / "SUMMARY.md"
    listed = {(book / local(target)[0]).resolve() for _, target in markdown_links(summary)}
    missing = sorted(path for path in book.rglob("*.md") if path != summary and path not in listed)
    return [f"{path.relative_to(ROOT)}: is not listed in {summary.relative_to(ROOT)}" for path in missing]


class Page(html.parser.HTMLParser):
    """The links and anchors of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.update(value for value in (attributes.get("id"), attributes.get("name")) if value)
        for key in ("href", "src"):
            if attributes.get(key):
                self.links.append((self.getpos()[0], attributes[key]))


def check_html(folder, book):
    # The kept reports are checked by tests of their own; they are here only as targets.
    copied = {folder / path.relative_to(book) for path in book.rglob("*.html")}
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html")) if path not in copied}
    problems = [] if pages else [f"{folder}: holds no page; run `mdbook build docs` first"]
    for path, page in pages.items():
        if path.name in ("404.html", "toc.html"):
            continue
        for number, target in page.links:
            link = local(target)
            if link is None:
                continue
            to = (path.parent / link[0]).resolve() if link[0] else path
            to = to / "index.html" if to.is_dir() else to
            place = f"{path}:{number}: {target}"
            if not to.exists():
                problems.append(f"{place}: there is no such file")
            elif link[1] and to in pages and link[1] not in pages[to].anchors:
                problems.append(f"{place}: there is no such anchor")
    return problems


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--book", type=pathlib.Path, help="folder of the built book")
    options = options.parse_args()
    book = ROOT / "docs"
    files = sorted(ROOT.glob("*.md")) + sorted(book.rglob("*.md")) + sorted(ROOT.glob("bench/**/*.md"))
    problems = check_markdown(files, book) + check_summary(book)
    if options.book:
        problems += check_html(options.book.resolve(), book)
    print("\n".join(problems + [f"{len(problems)} broken links in {len(files)} Markdown files"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
