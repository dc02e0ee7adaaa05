"""The README's results are those of the presets: `python tests/test_readme.py` writes them."""

import re
import shlex
from pathlib import Path

import zoo
from zoo.api import presets
from zoo.cli import parser

README = Path(__file__).resolve().parents[1] / "README.md"
TABLE = re.compile(r"(<!-- presets: .*? -->\n)(.*?)(<!-- end of presets -->)", re.DOTALL)


def table() -> str:
    """One line for each preset and protocol, with the sampling floor where it is known."""
    lines = [
        "| Preset | Protocol | Chamfer (floor) | Hausdorff (floor) | Training | Weights' licence |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for preset in presets():
        protocols, floor = {}, {}
        for row in preset.manifest["metrics"]:
            kind = floor if "floor" in row["protocol"] else protocols
            kind.setdefault(row["protocol"], {})[row["name"]] = row["value"]
        floor = next(iter(floor.values()), {})
        training = preset.manifest["training"]
        how = f"{training['steps']} steps, {training['minutes']:g} min, {training['hardware']}"
        for protocol, values in protocols.items():
            shown = [
                f"{values[name]:.4f}" + (f" ({floor[name]:.4f})" if name in floor else "")
                for name in ("chamfer", "hausdorff")
            ]
            licence = preset.manifest["licence"]["weights"]
            cells = [f"`{preset.name}`", protocol, *shown, how, licence]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_the_results_are_those_of_the_presets():
    assert TABLE.search(README.read_text())[2] == table(), "run `make readme`"


def test_python_blocks_compile_and_use_public_names():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for name in re.findall(r"\bzoo\.(\w+)", block):
            assert name in zoo.__all__ or name == "testing", f"zoo.{name}"


def test_shell_commands_parse():
    commands = re.findall(r"^zoo [^#\n]+", README.read_text(), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        parser().parse_args(shlex.split(command)[1:])


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda found: found[1] + table() + found[3], README.read_text()))
