"""The wheels: what they hold, under which licences, and that they work where nothing else is."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import pretrained
import zoo
from pretrained import shipped

ROOT = Path(zoo.__file__).resolve().parents[1]
PARTS = ("zoo", "registry", "pretrained", "presets")
FILES = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".*")


def build(kind: str, source: Path, target: Path) -> Path:
    """Calls the build backend as pip does."""
    code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
    target.mkdir()
    subprocess.run(
        [sys.executable, "-c", code, target], cwd=source, check=True, capture_output=True
    )
    return next(target.iterdir())


def unpacked(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_alone(code: str, site: Path, *words: str) -> str:
    """Runs code that sees the standard library and what is installed in a folder alone."""
    start = f"import site, sys; site.addsitedir({str(site)!r})\n{code}"
    command = [sys.executable, "-I", "-S", "-c", start, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=site)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository, since building leaves files behind."""
    folder = tmp_path_factory.mktemp("repository") / "clone"
    folder.mkdir()
    for name in PARTS:
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    # Of an earlier build, perhaps with presets that may not be in a wheel.
    for name in ("zoo/old.py", "pretrained/igr/bunny/model.weights.h5"):
        old = folder / "build" / "lib" / name
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_text("old")
    return folder


@pytest.fixture(scope="module")
def wheel(source):
    return build("wheel", source, source.parent / "wheel")


@pytest.fixture(scope="module")
def site(wheel):
    """What a user's folder of packages has of the wheel."""
    return unpacked(wheel, wheel.parents[1] / "site")


@pytest.fixture(scope="module")
def others(source):
    return build("wheel", source / "presets", source.parent / "others")


def metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_a_wheel_is_small_and_has_one_name_at_the_top(wheel, site):
    assert wheel.stat().st_size < 10e6
    tops = {path.name for path in site.iterdir()}
    assert tops == {"zoo", f"deformation_zoo-{zoo.__version__}.dist-info"}
    dist_info = next(site.glob("*.dist-info"))
    assert (dist_info / "top_level.txt").read_text() == "zoo\n"


def test_a_wheel_has_all_the_code_and_no_import_of_what_lies_elsewhere(site):
    written = {
        path.relative_to(ROOT).as_posix()
        for name in ("zoo", "registry", "pretrained")
        for path in (ROOT / name).rglob("*.py")
        if path.name != "train.py"
    }
    inside = {name if name.startswith("zoo/") else f"zoo/{name}" for name in written}
    found = {path for path in (site / "zoo").rglob("*.py") if path.name != "train.py"}
    assert {path.relative_to(site).as_posix() for path in found} == inside
    for path in found:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"registry", "pretrained"}, path
    assert (site / "zoo" / "py.typed").is_file()


def test_a_wheel_has_free_presets_whole_but_for_the_picture(site):
    inside, outside = shipped.divided(ROOT / "pretrained")
    root = site / "zoo" / "pretrained"
    assert {path.parent.relative_to(root) for path in root.glob("*/*/preset.json")} == {
        path.relative_to(ROOT / "pretrained") for path in inside
    }
    for folder in inside:
        licence = json.loads((folder / "preset.json").read_text())["licence"]["weights"]
        assert re.fullmatch(r"CC0-1\.0|CC-BY-[1-4]\.0", licence)
        for path in folder.iterdir():
            copy = root / path.relative_to(ROOT / "pretrained")
            if path.name != "preview.png" and path.is_file():
                assert copy.read_bytes() == path.read_bytes()
    assert not list(root.rglob("*.png"))
    listed = json.loads((root / "elsewhere.json").read_text())
    assert set(listed) == {f"{path.parent.name}.{path.name}" for path in outside}
    assert listed["igr.bunny"]["licence"].startswith("LicenseRef-")
    # What the demonstration and the tour load.
    assert {"igr.knot", "dirvnet.chessboard2d", "resnet_lddmm.step"}.isdisjoint(listed)


def test_metadata_name_the_licences_of_what_is_inside(wheel, others):
    facts = metadata(wheel)
    expected = {"Apache-2.0"} | {
        json.loads(path.read_text())["licence"]["weights"]
        for folder in shipped.divided(ROOT / "pretrained")[0]
        for path in [folder / "preset.json"]
    }
    assert set(facts["License-Expression"].split(" AND ")) == expected
    assert facts["License"] is None and facts.get_all("License-File") == ["LICENSE"]
    assert f'name: "{facts["Author"]}"' in (ROOT / "CITATION.cff").read_text()
    assert "Typing :: Typed" in facts.get_all("Classifier")
    terms = metadata(others)["License-Expression"].split(" AND ")
    assert {"GPL-2.0-only", "CC-BY-SA-4.0", "LicenseRef-noncommercial-research"} <= set(terms)
    assert metadata(others)["Version"] == facts["Version"] == zoo.__version__


def test_what_is_elsewhere_is_named_with_the_remedy():
    facts = {"licence": "GPL-2.0-only", "bytes": 400_000}
    told = shipped.remedy("toy.small", facts)
    for words in ("'toy.small'", "GPL-2.0-only, 0.4 MB", "pip install ./presets"):
        assert words in told
    assert told.endswith("CLONE/pretrained/toy/small")


def test_a_wheel_works_alone(site):
    code = """
import zoo
from zoo import pretrained
for name in ("igr.bunny", "divroc", "DIRVNET.brain2d", "igr.kno"):
    try:
        print("found", pretrained.info(name))
    except pretrained.PresetNotFound as error:
        print(error)
print([name for preset in zoo.presets() for name in pretrained.verify(preset)])
print(pretrained.locate("igr.knot").name, "igr.bunny" in zoo.find(pretrained=True))
print(zoo.Entry is zoo.registry.Entry, zoo.registry.__name__, zoo.add_method.__name__)
print(sorted({"registry", "pretrained", "keras", "numpy"} & set(sys.modules)))
"""
    told = run_alone(code, site).splitlines()
    for line, name in zip(told, ("igr.bunny", "divroc.vessels", "dirvnet.brain2d"), strict=False):
        assert line.startswith(f"preset {name!r} is not in the wheel") and "./presets" in line
    assert "close matches: igr.knot" in told[3]
    assert told[4:] == ["[]", "igr.knot False", "True zoo.registry add_method", "[]"]


def test_models_load_from_a_wheel(site):
    code = (
        "import sys, zoo; model = zoo.load('igr.knot', golden=True); print(type(model).__module__)"
    )
    env = {"PYTHONPATH": str(site), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": ""}
    code += "; print('registry' in sys.modules, zoo.__file__)"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, env=env, cwd=site, capture_output=True, text=True, check=True)
    expected = f"zoo.models.igr\nFalse {site / 'zoo' / '__init__.py'}\n"
    assert out.stdout.endswith(expected)


def test_the_other_presets_join(site, others, tmp_path):
    both = shutil.copytree(site, tmp_path / "both")
    unpacked(others, both)
    code = """
import zoo
print(*zoo.find(pretrained=True))
print([preset.name for preset in zoo.presets() if zoo.pretrained.verify(preset)])
print(zoo.pretrained.locate("dirvnet.brain2d", zoo.registry.preset_folders()).folder.parts[-4])
"""
    names, damaged, package = run_alone(code, both).splitlines()
    known = pretrained.find()
    assert names.split() == [preset.name for preset in known]
    assert damaged == str([preset.name for preset in known if pretrained.verify(preset)])
    assert package == "deformation_zoo_presets"


def test_a_wheel_from_a_source_distribution_is_the_same(source, site, tmp_path):
    archive = build("sdist", source, tmp_path / "sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    folder = next(path for path in tmp_path.iterdir() if path.name.startswith("deformation_zoo-"))
    assert not (folder / "pretrained" / "igr" / "bunny").exists()
    again = unpacked(build("wheel", folder, tmp_path / "again"), tmp_path / "site")

    def content(root):
        found = [path for path in (root / "zoo").rglob("*.*") if path.suffix != ".pyc"]
        return {path.relative_to(root): path.read_bytes() for path in found}

    assert content(again) == content(site)


def test_an_editable_install_has_everything(source, tmp_path):
    wheel = build("editable", source, tmp_path / "editable")
    code = """
import pretrained, registry, zoo
print(zoo.registry is registry, zoo.pretrained is pretrained)
print(pretrained.info("igr.bunny").name, *{m.__file__ for m in (zoo, registry, pretrained)})
"""
    told = run_alone(code, unpacked(wheel, tmp_path / "site")).split()
    assert told[:3] == ["True", "True", "igr.bunny"]
    expected = {str(source / name / "__init__.py") for name in ("zoo", "registry", "pretrained")}
    assert set(told[3:]) == expected
