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

    Exceptions that this project defines are for people, and so is what the machine refuses: a
    full disk, a folder that may not be written. Any other is a defect of ours and keeps its
    traceback, a file that is not there included: whoever looks for one says so himself.
    """
    try:
        call()
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where this one stopped")
        sys.exit(EXIT_INTERRUPTED)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        _say(f"{what}; mend that, and the same command goes on where this one stopped")
        sys.exit(EXIT_REFUSED)
    except (ValueError, RuntimeError) as error:
        if not for_people(error):
            raise
        _say(str(error))
        sys.exit(EXIT_REFUSED)


def for_people(error: BaseException) -> bool:
    """Whether this project defines ``error``: its message is one line for whoever asked."""
    return type(error).__module__.partition(".")[0] in _OURS


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


def terminal() -> Console:
    """Where a job says what it does: plain lines, never cut in two within a path."""
    return Console(soft_wrap=True, highlight=False, markup=False)


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"limen: {line}", markup=False)
