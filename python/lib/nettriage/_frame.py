"""Tables of trials as pandas frames."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from . import _nettriage

if TYPE_CHECKING:
    import pandas


def from_csv(text: str) -> pandas.DataFrame:
    """The frame of a table that the core wrote.

    Columns of text are never read as numbers or as missing: a module of a ``Sequential`` may give a block the name ``0``, and a user the
    name ``NA``. Only empty cells are missing.
    """
    import pandas

    kinds = {name: str for name in _nettriage.TEXT_COLUMNS}
    return pandas.read_csv(io.StringIO(text), dtype=kinds, keep_default_na=False, na_values=[""])
