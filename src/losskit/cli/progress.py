"""How a running training looks in a terminal, and in a file."""

import sys
from typing import TYPE_CHECKING

from losskit.train.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Bar", "Lines", "best_progress"]


class Lines(Silent):
    """A line for each epoch and no bar: for pipes, files, and where rich is not installed."""

    def line(self, text: str) -> None:
        # Flushed, so that whoever follows a redirected run sees an epoch when it ends.
        print(text, flush=True)


class Bar:
    """rich's progress bar below the lines."""

    def __init__(self) -> None:
        # rich is an extra, and importing it is worth its time only when a bar is drawn.
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._bar: RichProgress | None = None

    def start(self, title: str, steps: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            # The bar has served when its steps are done; the lines stay.
            transient=True,
        )
        self._task = self._bar.add_task(title, total=steps, completed=done, loss="...")
        self._bar.start()

    def step(self, loss: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=1, loss=f"{loss:.4f}")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def epoch_saved(self, epoch: int) -> None: ...

    def line(self, text: str) -> None:
        self._console.print(text)


def best_progress() -> Progress:
    """A bar where there is a terminal to draw it in and rich to draw it with, else lines."""
    if not sys.stdout.isatty():
        return Lines()
    try:
        return Bar()
    except ImportError:
        return Lines()
