"""The constraints file pins everything that the set-up installs."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SET_UP = ("cpu", "models", "dev")

# Come with the CUDA build of torch, which pins them itself.
OF_THE_CUDA_BUILD = ("nvidia-", "cuda-", "triton")


def pins() -> dict[str, str]:
    """Canonical name -> version of each line of the constraints file."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    named = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in named}


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for with these extras."""
    optional = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *optional]]


def installed() -> Iterator[tuple[str, str]]:
    """(canonical name, version) of all that the set-up's requirements bring, followed through."""
    todo, seen = requirements(*SET_UP), set()
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(wanted.name)
        yield key[0], Version(distribution.version).public
        for line in distribution.requires or []:
            further = Requirement(line)
            extras = {"", *wanted.extras}
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in extras
            ):
                todo.append(further)


def test_every_installed_package_is_pinned_at_its_version():
    ours = {
        name: version for name, version in installed() if not name.startswith(OF_THE_CUDA_BUILD)
    }
    assert len(ours) > 100
    assert ours.items() <= pins().items(), sorted(ours.items() - pins().items())


def test_every_pin_lies_in_the_range_that_the_project_declares():
    for wanted in requirements("cpu", "gpu", "dev"):
        assert SpecifierSet(str(wanted.specifier)).contains(pins()[canonicalize_name(wanted.name)])


def test_torch_is_pinned_alike_wherever_it_is_installed():
    torch = f"torch=={pins()['torch']}"
    assert "+" not in torch
    assert torch in (ROOT / "Makefile").read_text("utf-8")
    assert (ROOT / "Dockerfile").read_text("utf-8").count(f" {torch} ") == 2
