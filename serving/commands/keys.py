"""``limen keys``: who may ask a server, what, how much and until when.

One machine: ``limen keys add "Food & Drink" --scope query --scope verdict --expires 90d``
             ``limen keys limit --default --per-second 50 --burst 100 --at-once 8``
Cluster:     the same, then the file as a Secret: ``kubectl create secret generic limen-keys
             --from-file=keys.json``

A running server takes every change at once. Each one is told in the trail.
"""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.trail import Trail
from serving.access.key_file import SCOPES, KeysError, Limit, read_key_file
from serving.access.keys import add_key, moment, remove_key, rotate_key, set_limit, trail_beside
from serving.commands.terminal import plain

app = typer.Typer(help="The customers' keys and limits.", add_completion=False)

KeysOption = Annotated[Path, typer.Option(help="The keys file.")]
TrailOption = Annotated[
    Path | None,
    typer.Option(help="File that changes are told in.", show_default="trail.jsonl beside the keys"),
]
ScopeOption = Annotated[
    list[str] | None,
    typer.Option(help=f"One of {', '.join(SCOPES)}; repeatable.", show_default="query"),
]
ExpiresOption = Annotated[
    str | None,
    typer.Option(help="When it ends: 30d, 12h, or a date such as 2031-12-31 (UTC)."),
]
KeyId = Annotated[str, typer.Argument(help="Id, the part between the underscores.")]

_KEYS = Path("keys.json")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command()
def add(
    customer: Annotated[str, typer.Argument(help="The customer that the key speaks for.")],
    scope: ScopeOption = None,
    expires: ExpiresOption = None,
    keys: KeysOption = _KEYS,
    trail: TrailOption = None,
) -> None:
    """Add a key and print it, this once."""
    scopes = scope or ["query"]
    end = None if expires is None else end_of(expires, time.time())
    token = add_key(keys, customer, scopes, expires_at=end, trail=_trail(trail, keys))
    _say(f"Key of {customer!r} ({', '.join(scopes)}), kept in {keys} as a hash alone: "
         f"write it down now. It expires: {moment(end)}.")
    typer.echo(token)


@app.command("list")
def list_keys(keys: KeysOption = _KEYS) -> None:
    """Every key's id, customer, scopes and end, never the key; then the limits."""
    file = read_key_file(keys)
    table = Table("id", "customer", "scopes", "expires")
    for key in file.keys:
        end = moment(key.expires_at) + (" (past)" if key.is_expired(time.time()) else "")
        table.add_row(key.id, plain(key.customer), ", ".join(key.scopes), end)
    Console().print(table)
    limits = Table("limited", "queries a second", "burst", "requests at once")
    for who, limit in [*file.limits.items(), ("all others", file.default)]:
        if limit is not None:
            values = (limit.per_second, limit.burst, limit.at_once)
            numbers = ("any" if value is None else f"{value:g}" for value in values)
            limits.add_row(plain(who), *numbers)
    if limits.row_count:
        Console().print(limits)


@app.command()
def remove(key_id: KeyId, keys: KeysOption = _KEYS, trail: TrailOption = None) -> None:
    """Take a key away."""
    gone = remove_key(keys, key_id, trail=_trail(trail, keys))
    _say(f"Removed {gone.id} of {gone.customer!r}.")


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the old key still works.")] = "1h",
    expires: ExpiresOption = None,
    keys: KeysOption = _KEYS,
    trail: TrailOption = None,
) -> None:
    """Print a new key of the same customer and scopes; the old one ends after the overlap.

    The new key ends when the old one would have, unless --expires says otherwise.
    """
    now = time.time()
    seconds = seconds_of(overlap)
    end = None if expires is None else end_of(expires, now)
    token = rotate_key(keys, key_id, seconds, expires_at=end, now=now, trail=_trail(trail, keys))
    file = read_key_file(keys)
    new = next(key for key in file.keys if key.id == token.split("_")[1])
    _say(f"New key of {new.customer!r}: write it down now. It expires: {moment(new.expires_at)}; "
         f"{key_id} works for another {overlap} at most.")
    typer.echo(token)


@app.command()
def limit(
    customer: Annotated[str | None, typer.Argument(help="Whom to limit.")] = None,
    default: Annotated[bool, typer.Option("--default", help="All without their own.")] = False,
    per_second: Annotated[float | None, typer.Option(
        help="Queries a second in the long run; a batch of 32 counts 32.")] = None,
    burst: Annotated[int | None, typer.Option(
        help="Queries at once after a rest.", show_default="those of one second")] = None,
    at_once: Annotated[int | None, typer.Option(help="Requests at the same time.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Take the limit away.")] = False,
    keys: KeysOption = _KEYS,
    trail: TrailOption = None,
) -> None:
    """Set what a customer may ask, in place of what was set before."""
    if (customer is None) != default:
        raise KeysError("limit: expected a CUSTOMER or --default, one of the two")
    if none != (per_second is None and burst is None and at_once is None):
        raise KeysError("limit: expected --none or at least one of --per-second and --at-once")
    if per_second is not None and burst is None:
        burst = max(1, math.ceil(min(per_second, 1e9)))
    wanted = None if none else Limit(per_second=per_second, burst=burst, at_once=at_once)
    set_limit(keys, customer, wanted, trail=_trail(trail, keys))
    _say(f"Limit of {'all others' if customer is None else repr(customer)}: {_words(wanted)}.")


def seconds_of(text: str) -> float:
    """``90s``, ``15m``, ``12h`` or ``30d`` in seconds; ``KeysError`` for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not found:
        raise KeysError(f"{text!r}: expected a time such as 90s, 15m, 12h or 30d")
    return float(found[1]) * _SECONDS[found[2]]


def end_of(text: str, now: float) -> float:
    """A time from ``now`` on, or a date (its first moment, UTC), in seconds since the epoch."""
    try:
        named = datetime.fromisoformat(text)
        end = (named if named.tzinfo else named.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        end = now + seconds_of(text)
    if end <= now:
        raise KeysError(f"{text!r}: that is past; a key that has ended is of no use")
    return end


def _words(limit: Limit | None) -> str:
    if limit is None:
        return "none"
    rate = f"{limit.per_second:g} queries a second, {limit.burst} at once"
    most = f"{limit.at_once} requests at the same time"
    return ", ".join(
        text for text, given in ((rate, limit.per_second), (most, limit.at_once)) if given
    )


def _trail(named: Path | None, keys: Path) -> Trail:
    return Trail(named or trail_beside(keys))


def _say(text: str) -> None:
    """To people: what is piped on is the key alone."""
    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)
