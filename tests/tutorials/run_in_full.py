"""Executes the tutorials in full and writes them with their outputs.

    python tests/tutorials/run_in_full.py [NAME ...]

A name is that of a notebook without its suffix; without names all are executed, ten minutes on two
cores. Outputs on standard error are dropped, and pictures are made small.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "tutorials"
# Nothing of the machine that a notebook was executed on belongs into it.
MACHINE = re.compile(r"(?<![\w.~/:])/(tmp|home|root|work|usr|opt|var|mnt|private|Users)/|[A-Z]:\\")
LARGE = 90_000  # bytes of a picture, from which it is made small
WIDEST = 1000  # pixels of such a picture
PALETTE = 140_000  # bytes of a scaled picture, from which it gets a palette
TIMEOUT = 600  # seconds of a cell


def executed(notebook, fast: bool = False):
    """Executes a notebook in a kernel and a folder of its own.

    Args:
        notebook: of nbformat; it gets the outputs.
        fast: take the parameters from the metadata, see `with_fast_parameters`.

    Returns:
        The notebook.
    """
    if fast:
        with_fast_parameters(notebook)
    known = {name: os.environ.get(name) for name in ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")}
    above = [known["PYTHONPATH"]] if known["PYTHONPATH"] else []
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *above])
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        with tempfile.TemporaryDirectory() as folder:
            resources = {"metadata": {"path": folder}}
            NotebookClient(
                notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources
            ).execute()
    finally:
        for name, value in known.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return notebook


def with_fast_parameters(notebook) -> None:
    """Replaces assignments in the cell tagged `parameters` by the values in the metadata `fast`.

    Raises:
        ValueError: if there is no such cell, or it does not assign one of the names.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"a notebook needs one cell tagged 'parameters', not {len(cells)}.")
    for name, value in notebook.metadata["fast"].items():
        pattern = rf"^{name} = .*$"
        cells[0].source, found = re.subn(
            pattern, f"{name} = {value!r}", cells[0].source, flags=re.M
        )
        if found != 1:
            raise ValueError(f"{name} is assigned {found} times in the cell of the parameters.")


def cleaned(notebook):
    """The notebook without warnings, paths of this machine, times and large pictures."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [
            output
            for output in cell.outputs
            if output.get("name") != "stderr" and not MACHINE.search(text_of(output))
        ]
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = small(data["image/png"])
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def text_of(output) -> str:
    """What an output says, without its pictures."""
    said = [value for key, value in output.get("data", {}).items() if not key.startswith("image/")]
    return "\n".join(map(str, [output.get("text", ""), *said]))


def small(png: str) -> str:
    """A picture in base64, scaled down and then with a palette if it would be large."""
    if len(png) * 3 // 4 < LARGE:
        return png
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    if len(written := _png(picture)) >= PALETTE:
        written = _png(picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))
    return base64.b64encode(written).decode()


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def main(names: list[str]) -> None:
    """Executes notebooks in full, in place."""
    for path in sorted(TUTORIALS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        start = time.perf_counter()
        notebook = cleaned(executed(nbformat.read(path, as_version=4)))
        nbformat.write(notebook, path)
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
