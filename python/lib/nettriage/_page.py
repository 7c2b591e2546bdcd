"""Pages in a notebook and on disk."""

from __future__ import annotations

import html
import os
from pathlib import Path

#: Height in pixels of a page in a notebook.
HEIGHT = 620


def in_notebook(page: str, height: int = HEIGHT) -> str:
    """A page as a frame, so that its style does not reach the notebook's."""
    source = html.escape(page, quote=True)
    return f'<iframe srcdoc="{source}" style="width:100%;height:{height}px;border:0" sandbox="allow-scripts"></iframe>'


def save(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page; the path."""
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path
