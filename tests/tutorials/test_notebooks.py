"""The tutorials run, in few steps, and are committed with their outputs."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from run_in_full import MACHINE, TUTORIALS, executed, text_of

NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
NUMBER = 10
LARGEST = 450_000  # bytes


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_are_there():
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == list(range(1, NUMBER + 1))


def test_it_runs(notebook, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures go into the notebook
    executed(notebook, fast=True)
    assert any(is_picture(output) for cell in code_of(notebook) for output in cell.outputs)


def is_picture(output) -> bool:
    return "image/png" in output.get("data", {})


def test_it_is_committed_with_its_outputs(notebook, path):
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any(map(is_picture, outputs))
    assert path.stat().st_size < LARGEST


def test_it_tells_nothing_of_a_machine(notebook):
    for cell in notebook.cells:
        said = [cell.source, *map(text_of, cell.get("outputs", []))]
        assert not [text for text in said if MACHINE.search(text)]


def test_it_explains_itself(notebook):
    assert notebook.cells[0].source.startswith("# ")
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 4


def test_it_uses_public_names(notebook):
    tree = ast.parse("\n".join(cell.source for cell in code_of(notebook)))
    private = re.compile(r"^_[a-z]")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert not private.match(node.attr), node.attr
        if isinstance(node, ast.ImportFrom):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not [name for name in names if private.match(name)], names
