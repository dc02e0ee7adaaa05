"""The module of 3D Slicer: its description keeps to the execution model, its script registers."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import zoo
from zoo.data.phantoms import phantom_pair

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "slicer"
SCRIPT = FOLDER / "ZooRegistration.py"
HEAD = ["category", "title", "description", "version", "documentation-url", "license"]
HEAD += ["contributor", "acknowledgements"]
# Of the execution model, with what becomes of their default.
PLAIN = {"integer": int, "float": float, "double": float, "string": str, "string-vector": str}
PLAIN |= {"boolean": str, "string-enumeration": str, "integer-enumeration": int}
FILES = {"image", "file", "directory", "geometry", "transform", "table"}


def script():
    spec = importlib.util.spec_from_file_location("zoo_registration", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROOT = ElementTree.parse(SCRIPT.with_suffix(".xml")).getroot()
GROUPS = ROOT.findall("parameters")
PARAMETERS = [
    each for group in GROUPS for each in group if each.tag not in ("label", "description")
]


def test_the_description_is_that_of_an_executable():
    assert ROOT.tag == "executable"
    assert [each.tag for each in ROOT] == HEAD + ["parameters"] * len(GROUPS)
    assert ROOT.findtext("version") == zoo.__version__
    assert all(group.findtext("label") and group.findtext("description") for group in GROUPS)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda each: each.findtext("name"))
def test_parameters_are_complete(parameter):
    assert parameter.tag in FILES | set(PLAIN)
    assert re.fullmatch(r"[A-Za-z]\w*", parameter.findtext("name"))
    assert parameter.findtext("label") and parameter.findtext("description")
    flags = [parameter.find(name) for name in ("flag", "longflag", "index")]
    assert len([each for each in flags if each is not None]) == 1
    if parameter.tag in FILES:
        assert parameter.findtext("channel") in ("input", "output")
        return
    default = parameter.find("default")
    value = PLAIN[parameter.tag](default.text or "")
    elements = [each.text for each in parameter.findall("element")]
    assert parameter.tag.endswith("-enumeration") == bool(elements)
    assert not elements or value in elements
    limits = parameter.find("constraints")
    if limits is not None:
        assert float(limits.findtext("minimum")) <= value <= float(limits.findtext("maximum"))


def test_names_are_unique():
    names = [each.findtext("name") for each in PARAMETERS]
    assert len(set(names)) == len(names)


def test_the_script_has_the_flags_of_the_description_and_their_defaults():
    parser = script().parser()
    options = {flag: action for action in parser._actions for flag in action.option_strings}
    described = {each.findtext("longflag"): each for each in PARAMETERS} | {"--help": None}
    described.pop(None)
    assert set(options) - {"-h"} == set(described)
    for flag, parameter in described.items():
        if parameter is not None and parameter.tag in PLAIN:
            default = PLAIN[parameter.tag](parameter.findtext("default"))
            assert options[flag].default == default
    places = [action.dest for action in parser._actions if not action.option_strings]
    indices = [each.findtext("index") for each in PARAMETERS if each.find("index") is not None]
    assert places == ["fixed", "moving"] and indices == ["0", "1"]


def test_methods_are_those_of_the_zoo():
    (method,) = [each for each in PARAMETERS if each.findtext("name") == "method"]
    names = {name for each in method.findall("element") for name in each.text.split("+")}
    assert names <= set(zoo.find(task="registration", data="image"))


def test_the_description_is_printed(capsys):
    assert script().main(["--xml"]) == 0
    assert capsys.readouterr().out == SCRIPT.with_suffix(".xml").read_text()


def test_it_registers_two_volumes(tmp_path):
    pair, matrix, offset = phantom_pair((24, 20, 16), spacing=2.0, turn=8.0, shift=4.0)
    pair.fixed.write(tmp_path / "fixed.nrrd")
    pair.moving.write(tmp_path / "moving.nrrd")
    transform, moved = tmp_path / "found.h5", tmp_path / "moved.nrrd"
    command = [sys.executable, str(SCRIPT), tmp_path / "fixed.nrrd", tmp_path / "moving.nrrd"]
    command += ["--transform", transform, "--moved", moved, "--settings", "kind=affine,levels=2"]
    command += ["--command", f"{sys.executable} -m zoo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<filter-start>" in done.stdout and "<filter-end>" in done.stdout
    points = pair.fixed.grid.to_world(np.random.default_rng(0).uniform(6, 12, (50, 3)))
    true = points @ matrix.T + offset
    left = np.linalg.norm(zoo.Transform.load(transform).pull(points) - true, axis=1).mean()
    assert left < 0.2 * np.linalg.norm(points - true, axis=1).mean()
    image = zoo.Image.read(moved)
    assert image.grid.close_to(pair.fixed.grid)
    before = np.abs(pair.moving.array - pair.fixed.array).mean()
    assert np.abs(image.array - pair.fixed.array).mean() < 0.5 * before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fixed.nrrd", "found.h5", "moved.nrrd", "moving.nrrd",
    ]  # fmt: skip


def test_the_settings_of_slicer_do_not_reach_the_zoo(monkeypatch, capfd):
    show = "import os; print(sorted(set(os.environ) & {'PYTHONPATH', 'PYTHONHOME', 'KEPT'}))"
    command = f'"{sys.executable}" -c "{show}"'
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("KEPT", "1")
    assert script().run(command, []) == 0
    monkeypatch.setenv("SLICER_HOME", "/nowhere")
    assert script().run(command, []) == 0
    assert capfd.readouterr().out.splitlines() == ["['KEPT', 'PYTHONPATH']", "['KEPT']"]


def test_what_is_wrong_is_said(tmp_path, capsys):
    module = script()
    missing = str(tmp_path / "fixed.nrrd")
    assert module.main([missing, missing, "--command", str(tmp_path / "zoo")]) == 127
    assert "--command" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        module.main([missing, missing, "--transform", "found.txt"])
    assert "must end in .h5 or .nii.gz" in capsys.readouterr().err
