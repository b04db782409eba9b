"""The line that a training shows while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipeline.training.loop import Progress


@contextmanager
def training_bar(console: Console, steps: int) -> Iterator[Callable[[Progress], None]]:
    """A progress bar with loss, speed and the last measurement; yields what advances it."""
    columns = (
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("steps", total=steps, facts="")
        started, seen, measured = time.monotonic(), 0, ""

        def show(progress: Progress) -> None:
            nonlocal seen, measured
            seen += progress.images
            speed = seen / max(time.monotonic() - started, 1e-9)
            if (found := progress.validation) is not None:
                measured = f", R@1 {found.recall:.4f}, OPIS {found.opis.value:.2e}"
                console.print(
                    f"  step {progress.step}: R@1 {found.recall:.4f}, corrected OPIS "
                    f"{found.opis.value:.3g} ({found.opis.lower:.3g} to {found.opis.upper:.3g}) "
                    f"on {found.classes:,} held-out classes"
                )
            facts = f"loss {progress.loss:.3f}, {speed:,.0f} items/s{measured}"
            bar.update(task, completed=progress.step, facts=facts)

        yield show
