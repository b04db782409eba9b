"""The import law and the house numbers, read from the syntax tree of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for room in ("pipeline", "serving", "jobs") for path in (ROOT / room).rglob("*.py")
)
WEB = {"starlette", "fastapi", "uvicorn", "httpx", "requests", "aiohttp"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def importers(module: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in FILES if module in roots(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_import_law(path):
    forbidden = {
        "pipeline": {"jobs", "serving", "ray", "prometheus_client", "typer", "rich"} | WEB,
        "serving": {"jobs", "torch"},
        "jobs": {"serving", "prometheus_client"} | WEB,
    }[room(path)]
    assert not roots(path) & forbidden


def test_each_engine_stands_behind_one_door():
    assert importers("faiss") == ["pipeline/search/proposals.py"]
    assert importers("onnxruntime") == ["pipeline/encoding/encoder.py"]
    assert importers("sqlalchemy") == [
        path for path in importers("sqlalchemy") if path.startswith("pipeline/")
    ]


def test_ray_is_known_in_few_places():
    assert len(importers("ray")) <= 6


def test_torch_is_where_models_are_made():
    for path in importers("torch"):
        allowed = ("pipeline/models/", "pipeline/losses/", "pipeline/training/", "jobs/")
        # cuda: products of all pairs on a GPU, loaded only where a device is asked for.
        named = ("export", "cuda")
        assert path.startswith(allowed) or Path(path).stem in named, path


def folder(module: str) -> str:
    """The folder of ``pipeline`` or ``serving`` that a module lies in; empty: in none."""
    parts = module.split(".")
    deep = len(parts) > 1 and parts[0] in ("pipeline", "serving")
    return "/".join(parts[:2]) if deep and (ROOT / parts[0] / parts[1]).is_dir() else ""


def test_no_two_folders_need_each_other():
    needs: dict[str, set[str]] = {}
    for path in FILES:
        home = folder(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if home:
            needs.setdefault(home, set()).update(map(folder, imports(path)))
    for home, needed in needs.items():
        needed -= {home, ""}
    while needs:
        free = {home for home, needed in needs.items() if not needed & needs.keys()}
        assert free, needs
        needs = {home: needed for home, needed in needs.items() if home not in free}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 45, node.name


def test_no_room_without_a_name():
    assert not {path.stem for path in FILES} & {"utils", "helpers", "common", "misc"}


def test_suppressions_are_rare():
    lines = [line for path in FILES for line in path.read_text(encoding="utf-8").splitlines()]
    suppressed = [line for line in lines if "type: ignore" in line or "# noqa" in line]
    assert len(suppressed) <= 1 + len(lines) / 1000
