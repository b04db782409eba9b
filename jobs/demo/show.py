"""What the demonstration prints: tables of real answers, rates and gauges."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.demo.client import Client
from jobs.demo.traffic import Traffic
from pipeline.releases.release import Release

_EMPTY = "-"


def title(console: Console, text: str) -> None:
    """A heading."""
    console.print(f"\n[bold]{text}[/bold]")


def calibration(release: Release, console: Console) -> None:
    """The threshold, how it was chosen, and what it does on classes never seen before."""
    found: dict[str, Any] = release.calibration
    console.print(f"One threshold for everyone: distance <= {release.threshold:.6f}.")
    console.print(found["guarantee"])
    table = Table("report classes", "FAR", "FRR", "precision", "utility")
    points = found["operating_points"]["report"]
    for point in [*points["customers"], points["overall"]]:
        table.add_row(
            point["name"],
            _rate(point["far"]),
            _rate(point["frr"]),
            _number(point["precision"], 3),
            _number(point["utility"], 3),
        )
    console.print(table)
    _comparison(found, console)


def _comparison(found: dict[str, Any], console: Console) -> None:
    base = found.get("base")
    table = Table("equal steps", "OPIS, corrected", "OPIS, raw", "R@1", "R@1 across vendors")
    for name, entry in (("base loss", base), ("base loss + TCM", found)):
        if entry is not None:
            across = entry["recall_at_1_across"]
            table.add_row(
                name,
                _interval(entry["opis"]["corrected"], 1e3) + " e-3",
                _number(entry["opis"]["raw"], 2, 1e3) + " e-3",
                _number(entry["recall_at_1"]["value"], 3),
                _EMPTY if across is None else _number(across["value"], 3),
            )
    console.print(table)
    if base is not None:
        change = _interval(found["opis_minus_base"], 1e3)
        console.print(f"OPIS with TCM minus without, paired: {change} e-3.")


def queries(traffic: Traffic, console: Console) -> None:
    """One real query of each of a few customers."""
    table = Table("customer", "query", "matches (distance)", "in all", "nearest rejected")
    for customer in list(traffic.clients)[::2]:
        for row, result in traffic.ask(customer, traffic.usual(customer)[:1]):
            named = [_named(match) for match in result["matches"][:3]]
            rejected = result["nearest_rejected"]
            table.add_row(
                customer,
                f"{traffic.name(row)} ({traffic.items.item_id[row]})",
                "\n".join(named) or _EMPTY,
                str(result["match_count"]),
                _EMPTY if rejected is None else _named(rejected),
            )
    console.print(table)


def gauges(observer: Client, customers: Iterable[str], console: Console) -> dict[str, bool]:
    """Each customer's drift at ``/metrics``; whether the alert's condition holds for it."""
    seen, alerts = observer.gauges(), {}
    table = Table("customer", "verdicts", "utility change", "curve shift, e-3", "alert")
    for customer in customers:
        shift, change = (
            {
                kind: seen.get((f"{name}{suffix}", customer), math.nan)
                for kind, suffix in (("value", ""), ("lower", "_lower"), ("upper", "_upper"))
            }
            for name in ("limen_curve_shift", "limen_utility_change")
        )
        alerts[customer] = shift["lower"] > 0 and change["upper"] < 0
        verdicts = seen.get(("limen_verdicts_total", customer), 0.0)
        table.add_row(
            customer,
            f"{verdicts:.0f}",
            _interval(change),
            _interval(shift, 1e3),
            "[bold red]fires[/bold red]" if alerts[customer] else "silent",
        )
    console.print(table)
    return alerts


def _named(found: dict[str, Any]) -> str:
    name = found.get("metadata", {}).get("name") if found.get("metadata") else None
    return f"{name or found['item_id']} ({found['distance']:.3f})"


def _rate(interval: dict[str, Any]) -> str:
    return _interval(interval, digits=4)


def _interval(interval: dict[str, Any], scale: float = 1.0, digits: int = 3) -> str:
    ends = ("value", "lower", "upper")
    value, lower, upper = (_number(interval[end], digits, scale) for end in ends)
    return _EMPTY if value == _EMPTY else f"{value} [{lower}, {upper}]"


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    known = value is not None and not math.isnan(value)
    return f"{value * scale:.{digits}f}" if value is not None and known else _EMPTY
