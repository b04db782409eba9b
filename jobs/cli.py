"""The ``limen`` command line: one verb, one function, imported only when it is called.

The verbs of ``serving`` are named here by import string alone; importing torch or Ray to print a
help text would take seconds.
"""

from __future__ import annotations

import sys

import typer

from jobs.command import guarded, main_of, run_verb

SUMMARY = "Similarity search for many customers under one calibrated threshold."

VERBS = {
    "run": ("jobs.run:main", "Train, export, index, calibrate, seal and promote a recipe."),
    "train": ("jobs.train:main", "Train the embedding model of a recipe."),
    "tune": ("jobs.tune:main", "Look for margins and a learning rate by trial."),
    "export": ("jobs.export:main", "Export the model to ONNX; refused unless decisions agree."),
    "index": ("jobs.index:main", "Embed the served items and build their gallery and index."),
    "calibrate": ("jobs.calibrate:main", "Choose the threshold through the served path."),
    "evaluate": ("jobs.evaluate:main", "Measure how alike one threshold treats every group."),
    "compare": ("jobs.compare:main", "Which decisions flip from one release to the next."),
    "audit": ("jobs.audit:app", "Measure many deciders with few labels."),
    "reindex": ("jobs.reindex:main", "A new gallery under the same encoder and threshold."),
    "releases": ("jobs.releases:app", "List, verify, promote and roll back releases."),
    "serve": ("serving.commands.serve:main", "Serve a release over HTTP."),
    "query": ("serving.commands.query:main", "Ask a server and print its answers."),
    "keys": ("serving.commands.keys:app", "Add and list the customers' keys."),
    "verdicts": ("serving.commands.verdicts:app", "Reviews to do, verdicts to send."),
    "drift": ("serving.commands.drift:main", "How far each customer has moved."),
}
"""Verb: where it lives, and its line in ``limen --help``."""


def main() -> None:
    """Dispatch ``limen VERB ...``."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in VERBS:
        run_verb(lambda: _app_of(verb)(args=sys.argv[2:], prog_name=f"limen {verb}"))
        return
    overview = typer.Typer(help=SUMMARY, add_completion=False)
    for name, (_, summary) in VERBS.items():
        overview.command(name, help=summary)(_unreachable)
    overview()


def _app_of(verb: str) -> typer.Typer:
    target = main_of(VERBS[verb][0])
    if isinstance(target, typer.Typer):
        return target
    app = typer.Typer(add_completion=False)
    app.command()(guarded(target))
    return app


def _unreachable() -> None:
    """The overview only lists verbs; a known verb never gets here."""


if __name__ == "__main__":
    main()
