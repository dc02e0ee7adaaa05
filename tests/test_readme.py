"""The results of README and benchmarks are those of the presets: `make readme` writes them."""

import importlib.util
import re
import shlex
from pathlib import Path

import zoo
from zoo.api import info, presets
from zoo.cli import parser

ROOT = Path(__file__).resolve().parents[1]
README, BENCHMARKS = ROOT / "README.md", ROOT / "docs/benchmarks.md"
OVERVIEW, PRESETS = (
    re.compile(rf"(<!-- {name}: .*? -->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
    for name in ("overview", "presets")
)
# What one line shows of a preset: the first of these that its first protocol has.
HEADLINES = {
    "epe": ("mean error, voxels", 2),
    "tre_mm": ("mean error, mm", 2),
    "error": ("mean error, height 2", 3),
    "dice": ("mean Dice", 3),
    "chamfer": ("Chamfer, longest side 2", 4),
}


def overview() -> str:
    """One line for each preset: its first protocol."""
    lines = ["| Preset | What | Measure | Before | After | Licence |", "| --- |" + " --- |" * 5]
    for preset in presets():
        groups = _measured(preset)
        of = next(iter(groups.values()))
        name = next(name for name in HEADLINES if name in of)
        words, digits = HEADLINES[name]
        before = f"{of[f'initial_{name}']:.{digits}f}" if f"initial_{name}" in of else ""
        if name in (floor := _floor(groups)):
            before = f"floor {floor[name]:.{digits}f}"
        facts = [f"`{preset.name}`", preset.manifest["summary"].rstrip("."), words, before]
        facts += [f"**{of[name]:.{digits}f}**", preset.manifest["licence"]["weights"]]
        lines.append(f"| {' | '.join(facts)} |")
    return "\n".join(lines) + "\n"


def table() -> str:
    """Surfaces first, then registrations of images, of clouds, networks, and flows of meshes."""
    return "\n".join([surfaces(), registrations(), clouds(), networks(), flows()])


def surfaces() -> str:
    """One line for each preset and protocol, with the sampling floor where it is known."""
    lines = [
        "| Preset | Protocol | Chamfer (floor) | Hausdorff (floor) | Training | Weights' licence |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for preset, protocols in _of("hausdorff"):
        floor = _floor(_measured(preset))
        for protocol, values in protocols.items():
            if "floor" in protocol:
                continue
            shown = [
                f"{values[name]:.4f}" + (f" ({floor[name]:.4f})" if name in floor else "")
                for name in ("chamfer", "hausdorff")
            ]
            lines.append(_line(preset, protocol, *shown))
    return "\n".join(lines) + "\n"


def registrations() -> str:
    """One line for each preset: before registration, with the untrained and the trained network."""
    lines = [
        "| Preset | Protocol | Measure | Initial | Untrained | Trained | Folds | Training "
        "| Weights' licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for measure, words in (("epe", "mean error, voxels"), ("dice", "mean Dice")):
        for preset, protocols in _of(measure):
            protocol, values = next(iter(protocols.items()))
            before = protocols[f"{protocol}, before training"]
            shown = [f"{row:.3f}" for row in (values[f"initial_{measure}"], before[measure])]
            shown += [f"**{values[measure]:.3f}**", f"{values['folds_percent']:.2g} %"]
            lines.append(_line(preset, protocol, words, *shown))
    return "\n".join(lines) + "\n"


def clouds() -> str:
    """One line for each level and data term of the generated lungs."""
    lines = [
        "| Vessels | Data term | Mean error, mm | Worst case | Folds | s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found = {}
    for row in info("divroc.vessels").manifest["metrics"]:
        table, _, term = row["protocol"].partition(": ")
        if table.startswith("accuracy"):
            found.setdefault((row["data"], term), {})[row["name"]] = row["value"]
    for (data, term), values in found.items():
        what = data.removeprefix("breathing vessels, ").removesuffix(" (zoo.data.vessels)")
        if term == "none":
            shown = [f"{values[name]:.1f}" for name in ("tre_mm", "worst_tre_mm")] + ["", ""]
        else:
            shown = [f"{values[name]:.2f}" for name in ("tre_mm", "worst_tre_mm")]
            shown += [f"{values['folds_percent']:.2g} %", f"{values['seconds']:.0f}"]
        lines.append(f"| {' | '.join([what, term, *shown])} |")
    return "\n".join(lines) + "\n"


def networks() -> str:
    """One line for each network of clouds and protocol."""
    lines = [
        "| Preset | Lungs | Protocol | Initial | Error, mm | s | Training | Weights' licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for preset in presets():
        if preset.manifest["model"] not in ("pointpwc", "dgcnn"):
            continue
        for (data, protocol), values in _measured(preset).items():
            shown = [data.removeprefix("breathing vessels, "), protocol]
            shown += [f"{values['initial_tre_mm']:.1f}", f"{values['tre_mm']:.2f}"]
            lines.append(_line(preset, *shown, f"{values['seconds']:.0f}"))
    return "\n".join(lines) + "\n"


def flows() -> str:
    """One line for each preset and protocol; figures are about 2 high."""
    lines = [
        "| Preset | Protocol | Initial | Mean error | Folds | s | Training | Weights' licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for preset, protocols in _of("error"):
        for protocol, values in protocols.items():
            shown = [f"{values[name]:.3f}" for name in ("initial_error", "error")]
            shown += [f"{values['folds_percent']:.2g} %"]
            shown += [f"{values['seconds']:.0f}" if "seconds" in values else ""]
            lines.append(_line(preset, protocol, *shown))
    return "\n".join(lines) + "\n"


def _measured(preset) -> dict[tuple[str, str], dict[str, float]]:
    """The metrics of a preset by data and protocol, in the order of its card."""
    groups = {}
    for row in preset.manifest["metrics"]:
        groups.setdefault((row["data"], row["protocol"]), {})[row["name"]] = row["value"]
    return groups


def _floor(groups: dict) -> dict[str, float]:
    """What the true surface itself would score; empty where nobody measured it."""
    return next((values for (_, protocol), values in groups.items() if "floor" in protocol), {})


def _of(measure: str):
    """Presets with a metric, and their metrics by protocol."""
    for preset in presets():
        protocols = {protocol: values for (_, protocol), values in _measured(preset).items()}
        if measure in next(iter(protocols.values())):
            yield preset, protocols


def _line(preset, *cells: str) -> str:
    training = preset.manifest["training"]
    how = f"{training['steps']} steps, {training['minutes']:g} min, {training['hardware']}"
    licence = preset.manifest["licence"]["weights"]
    return f"| {' | '.join([f'`{preset.name}`', *cells, how, licence])} |"


def test_the_results_are_those_of_the_presets():
    assert OVERVIEW.search(README.read_text())[2] == overview(), "run `make readme`"
    assert PRESETS.search(BENCHMARKS.read_text())[2] == table(), "run `make readme`"


def test_python_blocks_compile_and_use_public_names():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for name in re.findall(r"\bzoo\.(\w+)", block):
            assert name in zoo.__all__ or importlib.util.find_spec(f"zoo.{name}"), f"zoo.{name}"


def test_shell_commands_parse():
    commands = re.findall(r"^zoo [^#\n]+", README.read_text(), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        parser().parse_args(shlex.split(command)[1:])


if __name__ == "__main__":
    for file, places, made in ((README, OVERVIEW, overview), (BENCHMARKS, PRESETS, table)):
        file.write_text(places.sub(lambda f, made=made: f[1] + made() + f[3], file.read_text()))
