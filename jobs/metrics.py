"""What a training says about itself, for people with plots: TensorBoard events and plain JSONL.

``runs/NAME/metrics/TAG/metrics.jsonl`` has one line a step; the event files beside it hold the
same numbers (``tensorboard --logdir runs``). A training that goes on from a checkpoint does
again what was done after it: those steps are taken out first, so that no step stands twice.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from pipeline.durable import partial_of
from pipeline.training.loop import Progress


class Metrics:
    """The metrics of one training, in ``folder``; open as long as it runs."""

    def __init__(self, folder: Path) -> None:
        """Nothing is written before the first step."""
        self._folder = folder
        self._path = folder / "metrics.jsonl"
        self._last: int | None = None
        self._events: SummaryWriter | None = None
        self._seconds, self._waited = 0.0, 0.0

    def add(self, progress: Progress) -> None:
        """Note a step; an earlier one than the last takes back all from there on."""
        if self._last is None or progress.step <= self._last:
            self._rewind(progress.step)
        self._last = progress.step
        self._seconds += progress.seconds
        self._waited += progress.waited
        numbers = numbers_of(progress)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": progress.step, **numbers}) + "\n")
        self._tell(progress.step, numbers)

    @property
    def waited_share(self) -> float:
        """Share of the time of all steps added that went into waiting for data; NaN without one."""
        return self._waited / self._seconds if self._seconds else math.nan

    def _rewind(self, step: int) -> None:
        """Keep the lines before ``step``, and tell the events anew what they say.

        Readers drop all events before those: a killed writer has left the last ones unwritten.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        # A killed writer leaves half a line at the most, without its end.
        whole = [line for line in lines.splitlines(keepends=True) if line.endswith("\n")]
        kept = "".join(line for line in whole if json.loads(line)["step"] < step)
        partial = partial_of(self._path)
        partial.write_text(kept, encoding="utf-8")
        partial.replace(self._path)
        self._close()
        # Files are named by the second: one of the same second would be written over.
        number = sum(1 for _ in self._folder.glob("events.*"))
        self._events = SummaryWriter(
            str(self._folder), purge_step=0, filename_suffix=f".{number:04d}"
        )
        for line in kept.splitlines():
            numbers = json.loads(line)
            self._tell(numbers.pop("step"), numbers)

    def _tell(self, step: int, numbers: dict[str, float | None]) -> None:
        assert self._events is not None, "opened by the first step"
        for name, value in numbers.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def _close(self) -> None:
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Metrics:
        """Ready for the first step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Everything added is on disk."""
        self._close()


def numbers_of(progress: Progress) -> dict[str, float | None]:
    """The numbers of a step by name; None where unknown, those of a measurement where it is one.

    ``images_per_second`` and ``waited`` (the share of time spent waiting for data) are of this
    step alone.
    """
    numbers = {
        "loss": progress.loss,
        "rate": progress.rate,
        "images_per_second": progress.images / progress.seconds,
        "waited": progress.waited / progress.seconds,
    }
    if progress.threshold is not None:
        numbers["threshold"] = progress.threshold
    found = progress.validation
    if found is not None:
        numbers |= {
            "recall": found.recall,
            "opis": found.opis.value,
            "opis_lower": found.opis.lower,
            "opis_upper": found.opis.upper,
            "opis_raw": found.opis_raw,
            "eps_opis": found.eps_opis,
        }
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
