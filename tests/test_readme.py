"""The README's blocks do what they say."""

import re
import tomllib
from pathlib import Path

import pytest

from jobs.cli import VERBS
from pipeline.config import parse_recipe

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def blocks(language: str) -> list[str]:
    found = [text for name, text in BLOCKS if name == language]
    assert found
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("text", blocks("toml"))
def test_recipes_are_recipes(text):
    assert parse_recipe(tomllib.loads(text), "README.md").loss.tcm is not None


def test_commands_exist():
    text = "\n".join(blocks("sh"))
    verbs = re.findall(r"\.venv/bin/limen (\w+)", text)
    assert verbs
    assert set(verbs) <= set(VERBS)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_named_files_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\((docs/[\w./]+)\)|`((?:jobs|k8s|docs)/[\w./-]+)`", text):
        assert (ROOT / (name[0] or name[1])).exists(), name
