"""The numbers that the tables of the study show, and how people read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.study.analysis import ACROSS, RECALL, Metric, Paired, number, opis
from pipeline.reports.numerals import MISSING
from pipeline.statistics.intervals import Interval

TITLES = {
    "emoji": "emoji across vendors", "icons": "icons across sets",
    "emoji-tones": "emoji, skin tones apart", "digits": "handwritten digits",
    "cnn": "small CNN", "efficientnet_lite0": "EfficientNet-Lite0, pretrained", "mlp": "MLP",
    "multi_similarity": "Multi-Similarity", "supervised_contrastive": "SupCon",
    "smooth_ap": "Smooth-AP", "recall_at_k": "Recall@k surrogate", "arcface": "ArcFace",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """One measure of a comparison."""

    title: str
    metric: Metric
    scale: float
    """What values are shown in: 100 for percent."""
    better: int
    """1 where more is better, -1 where less is."""
    relative: bool = False
    """Whether the change is shown in percent of the base."""

    def values(self, pair: Paired) -> tuple[str, str]:
        """Base and TCM, means over the seeds."""
        base, tcm = pair.mean(self.metric)
        return _plain(self.scale * base), _plain(self.scale * tcm)

    def change(self, pair: Paired) -> Interval:
        """TCM minus base over the seeds, in the shown unit, or in percent of the base's mean."""
        found = pair.change(self.metric)
        base = pair.mean(self.metric)[0]
        scale = self.scale
        if self.relative:
            scale = 100.0 / base if base > 0 else math.nan
        return Interval(scale * found.value, scale * found.lower, scale * found.upper)

    def change_text(self, pair: Paired) -> str:
        """The change with its sign."""
        value = self.change(pair).value
        unit = " %" if self.relative else ""
        return MISSING if math.isnan(value) else f"{_signed(value, self.relative)}{unit}"

    def interval_text(self, pair: Paired) -> str:
        """The change with its interval over the seeds."""
        found = self.change(pair)
        if math.isnan(found.lower):
            return self.change_text(pair)
        ends = ", ".join(_signed(end, self.relative) for end in (found.lower, found.upper))
        return f"{self.change_text(pair)} [{ends}]"


def eps(group: str, form: str) -> Metric:
    """Corrected eps-OPIS of the worst tenth in one of its three forms."""
    return number(group, "eps", form, "corrected")


MAIN_COLUMNS = (
    Column("R@1 (%)", RECALL, 100, 1),
    Column("OPIS, classes (e-3)", opis("label"), 1e3, -1, relative=True),
    Column("OPIS, customers (e-3)", opis("customer"), 1e3, -1, relative=True),
    Column("eps-OPIS, classes (e-3)", eps("label", "best_worst"), 1e3, -1, relative=True),
    Column("worst customer's utility (%)", number("customer", "worst", "value"), 100, 1),
)
"""Of the picture."""

FURTHER_COLUMNS = (
    Column("R@1 across vendors or sets (%)", ACROSS, 100, 1),
    Column("OPIS raw, classes (e-3)", number("label", "opis", "raw"), 1e3, -1),
    Column("OPIS raw, customers (e-3)", number("customer", "opis", "raw"), 1e3, -1),
    Column("eps-OPIS worst to rest, classes (e-3)", eps("label", "worst_rest"), 1e3, -1),
    Column("eps-OPIS gap, classes (e-3)", eps("label", "opis_gap"), 1e3, -1),
    Column("eps-OPIS best to worst, customers (e-3)", eps("customer", "best_worst"), 1e3, -1),
    Column("FRR at the threshold, customers (%)", number("customer", "frr", "value"), 100, -1),
    Column("FAR at the threshold, customers (%)", number("customer", "far", "value"), 100, -1),
    Column("mean utility over the range, classes (%)", number("label", "utility"), 100, 1),
)
"""Only in the tables of numbers."""


def _plain(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.2f}"


def _signed(value: float, relative: bool) -> str:
    return f"{value:+.1f}" if relative else f"{value:+.2f}"
