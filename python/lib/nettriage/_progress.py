"""Progress of a computation: a tqdm bar, or the user's own function."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

#: Receives the phase, how many of its steps are done, and of how many.
ProgressFunction = Callable[[str, int, int], None]


class Progress(AbstractContextManager["Progress"]):
    """Shows one bar per phase; closes the last one at the end.

    Parameters
    ----------
    progress : bool or callable
        True for tqdm bars if tqdm is installed, False for none, or a function of (phase, done, of).
    """

    def __init__(self, progress: bool | ProgressFunction) -> None:
        self._own = progress if callable(progress) else None
        self._bar: Any = None
        self._phase: str | None = None
        self._tqdm: Any = None
        if progress is True:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._tqdm = tqdm

    @property
    def function(self) -> ProgressFunction | None:
        """What the computation calls; none for silence."""
        if self._own is not None:
            return self._own
        return self._show if self._tqdm is not None else None

    def _show(self, phase: str, done: int, of: int) -> None:
        if phase != self._phase or self._bar is None:
            self._close()
            self._bar, self._phase = self._tqdm(total=of, desc=phase, leave=False), phase
        self._bar.total = of
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()
