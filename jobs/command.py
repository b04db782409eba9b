"""How a verb ends: with what it made, with one clear line, or interrupted and resumable."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable

import typer
from rich.console import Console

_OURS = ("pipeline", "jobs", "serving")

EXIT_REFUSED, EXIT_INTERRUPTED = 1, 130


def run_verb(call: Callable[[], object]) -> None:
    """Call a verb; end the process with 1 and one line where the project refused its input.

    Only exceptions that this project defines are for people; any other is a defect of ours and
    keeps its traceback.
    """
    try:
        call()
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where this one stopped")
        sys.exit(EXIT_INTERRUPTED)
    except (ValueError, RuntimeError) as error:
        if type(error).__module__.partition(".")[0] not in _OURS:
            raise
        _say(str(error))
        sys.exit(EXIT_REFUSED)


def main_of(target: str) -> Callable[..., None]:
    """The function behind an import string such as ``jobs.train:main``."""
    module, _, name = target.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    return function


def guarded(main: Callable[..., None]) -> Callable[..., None]:
    """``main`` with its ends handled here, before the parser would call an interrupt an abort."""

    @functools.wraps(main)
    def verb(*args: object, **options: object) -> None:
        run_verb(lambda: main(*args, **options))

    return verb


def script(main: Callable[..., None]) -> None:
    """Run ``main`` as ``python -m jobs.<verb>``."""
    typer.run(guarded(main))


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"limen: {line}", markup=False)
