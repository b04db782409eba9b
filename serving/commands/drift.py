"""``limen drift``: how far each customer has moved since calibration.

One machine: ``limen drift --key lim_..`` with a key of scope ``observe``
Cluster:     the same with ``--server https://limen.example.com``
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from serving.client.types import CustomerDrift, Estimate
from serving.commands.client import SERVER, KeyOption, ServerOption, connect
from serving.commands.terminal import plain


def main(*, key: KeyOption = "", server: ServerOption = SERVER) -> None:
    """Print every customer's drift with its 95 % intervals, and the OPIS of all."""
    with connect(server, key) as limen:
        answer = limen.consistency()
    console = Console()
    console.print(f"release {answer.release}, threshold {answer.threshold:.6f}", highlight=False)
    table = Table("customer", "reviewed", "curve shift", "utility change", "FAR", "FRR",
                  "precision", "")
    for drift in answer.customers:
        table.add_row(
            plain(drift.customer), str(drift.reviewed), _interval(drift.curve_shift),
            _interval(drift.utility_change),
            *(_number(rate) for rate in (drift.far, drift.frr, drift.precision)),
            "drifted" if _has_drifted(drift) else "",
        )
    console.print(table)
    waiting = {entry.customer for entry in answer.recorded} - {
        drift.customer for drift in answer.customers
    }
    if waiting:
        console.print(f"Too little reviewed yet: {', '.join(sorted(waiting))}", markup=False)
    if answer.opis:
        corrected = _interval(answer.opis.corrected)
        console.print(f"OPIS raw {answer.opis.raw:.3g}, corrected {corrected}",
                      highlight=False, markup=False)


def _has_drifted(drift: CustomerDrift) -> bool:
    """The rule of the shipped alert: worse than at calibration, beyond both intervals."""
    shift, change = drift.curve_shift.lower, drift.utility_change.upper
    return shift is not None and change is not None and shift > 0 > change


def _interval(entry: Estimate) -> str:
    if entry.value is None:
        return "unknown"
    return f"{entry.value:.2g} ({_number(entry.lower)} to {_number(entry.upper)})"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}"
