"""Progress for people, on stderr; results go to stdout and never mix with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told what is going on."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Context manager around one stage of the flow."""

    def counting(self, name: str) -> AbstractContextManager[Callable[[float, str], None]]:
        """Context manager around a stage that tells which share of it is done, and a few words."""


class Silent:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run the stage."""
        yield

    @contextmanager
    def counting(self, name: str) -> Iterator[Callable[[float, str], None]]:
        """Run the stage."""
        yield lambda share, words: None


class Terminal:
    """Shows a spinner while a stage runs and, if it took a second or ``is_verbose``, a line when it ends.

    Parameters
    ----------
    is_verbose : bool
    """

    def __init__(self, is_verbose: bool = False) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._is_verbose = is_verbose

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show the stage."""
        started = time.perf_counter()
        with self._console.status(name):
            yield
        elapsed = time.perf_counter() - started
        if self._is_verbose or elapsed >= 1:
            self._console.print(f"[dim]{elapsed:6.1f} s[/dim]  {name}")

    @contextmanager
    def counting(self, name: str) -> Iterator[Callable[[float, str], None]]:
        """Show a bar, the words and the time left."""
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[words]}"),
            progress.TimeRemainingColumn(),
        )
        started = time.perf_counter()
        with progress.Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(name, total=1.0, words="")
            yield lambda share, words: bar.update(task, completed=share, words=words)
        self._console.print(f"[dim]{time.perf_counter() - started:6.1f} s[/dim]  {name}")
