"""The rooms of the house: who imports whom, what stays unimported, and what is documented."""

import ast
import importlib
import inspect
import subprocess
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import registry
import zoo
import zoo.model

ROOT = Path(zoo.__file__).resolve().parents[1]

# What each room may import from the project, besides itself.
ALLOWED = {
    "registry": "",
    "pretrained": "",
    "zoo.geometry": "ops",
    "zoo.ops": "",
    "zoo.layers": "ops",
    "zoo.losses": "ops layers",
    "zoo.metrics": "ops",
    "zoo.io": "geometry ops",
    "zoo.data": "geometry io ops",
    "zoo.transform": "geometry io ops data layers",
    "zoo.model": "ops catalogue registry pretrained",
    "zoo.registration": "ops layers losses metrics data geometry model transform registry"
    " catalogue",
    "zoo.surface": "ops metrics data geometry model registration",
    "zoo.models": "ops layers losses metrics data geometry model transform registration surface",
    "zoo.checkpoints": "io ops models",
    "zoo.catalogue": "registry",
    "zoo.saving": "catalogue",
    "zoo.api": "registry pretrained catalogue ops registration",
    "zoo.view": "ops geometry io transform data registration",
}
ON_TOP = {"zoo", "zoo.cli", "zoo.demo", "zoo.testing", "zoo.recipes", "zoo.reports", "zoo.__main__"}
PACKAGES = ("registry", "pretrained", "zoo")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
# A recipe runs on its own, on top of everything.
SOURCES = [path for path in SOURCES if path.name != "train.py"]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] != "zoo" else ".".join(parts[:2])


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports anywhere, in its functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in MODULES else node.module or "")
    return found


def complaint(module: str, imported: str) -> str:
    """What is wrong with an import, if anything is."""
    room, target = room_of(module), room_of(imported)
    if room in ON_TOP:
        return ""
    if room not in ALLOWED:
        return f"{room} is a new room: give it its line in ALLOWED, or add it to ON_TOP"
    ours = imported.split(".")[0] in PACKAGES
    if ours and target != room and target.removeprefix("zoo.") not in ALLOWED[room].split():
        return f"{module} imports {imported}"
    if room == "zoo.models" and imported.startswith("zoo.models"):
        return f"{module} imports another model, {imported}"
    is_backend = imported.split(".")[0] in ("tensorflow", "jax", "tensorflow_graphics")
    return f"{module} imports {imported}" if is_backend and room != "zoo.ops" else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    wrong = [complaint(module, imported) for imported in imports_of(MODULES[module])]
    assert not any(wrong), wrong


@pytest.mark.parametrize(
    ("module", "imported", "wrong"),
    [
        ("zoo.models.new", "zoo.transform", ""),
        ("zoo.models.new", "keras", ""),
        ("zoo.models.new", "zoo.models.affine", "imports another model"),
        ("zoo.models.new", "zoo.cli.shared", "imports zoo.cli.shared"),
        ("zoo.models.new", "tensorflow", "imports tensorflow"),
        ("zoo.ops.new", "tensorflow", ""),
        ("zoo.layers.new", "zoo.data.scan", "imports zoo.data.scan"),
        ("zoo.cli.new", "zoo.models.affine", ""),
        ("zoo.new_room.new", "zoo.ops", "its line in ALLOWED"),
    ],
)
def test_a_new_file_needs_no_rule_and_a_new_room_one_line(module, imported, wrong):
    assert wrong in complaint(module, imported)
    assert bool(wrong) == bool(complaint(module, imported))


def test_no_files_import_each_other():
    ours = MODULES.keys()
    graph = {module: imports_of(path) & ours - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # a CycleError names the files of a circle


@pytest.mark.parametrize("name", ["registry", "pretrained"])
def test_leaves_use_the_standard_library(name):
    for path in (ROOT / name).glob("*.py"):
        for imported in imports_of(path):
            top = imported.split(".")[0]
            assert top in sys.stdlib_module_names or top == name, f"{path.name}: {imported}"


def built(root: Path, folder: Path) -> set[str]:
    """The files of a wheel of the project at `root`, without its metadata."""
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "--quiet", "build_py"]
    subprocess.run([*command, "--build-lib", folder], capture_output=True, check=True, cwd=root)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_assets_are_shipped(tmp_path):
    root = tmp_path / "project"
    assets = {"zoo/view/assets/page.html", "zoo/view/assets/icons/one.png", "zoo/assets/facts.json"}
    code = {"zoo/__init__.py", "zoo/view/__init__.py"}
    for name in assets | code | {"zoo/view/notes.txt"}:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("__version__ = '1'")
    for name in ("setup.cfg", "pyproject.toml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    assert built(root, tmp_path / "built") == assets | code


def test_listing_loads_nothing_heavy():
    code = (
        "import sys, zoo; zoo.find('*'); zoo.find('*', pretrained=True); zoo.describe('igr');"
        "heavy = {'tensorflow', 'keras', 'jax', 'trimesh', 'SimpleITK', 'numpy', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_zoo_list_is_quick():
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "zoo", "list"], capture_output=True, check=True, cwd=ROOT)
    # Well under the several seconds that importing TensorFlow takes, with room for a busy machine.
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize("name", zoo.__all__)
def test_public_names_resolve_and_are_documented(name):
    assert inspect.getdoc(getattr(zoo, name))


def test_rooms_are_imported_when_named():
    code = "import zoo; print(zoo.layers.SpatialTransformer.__name__, zoo.losses.NCC.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["SpatialTransformer", "NCC"]


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zoo.nothing


def test_the_old_name_of_add_method_works_and_is_not_advertised():
    with registry.isolated(), pytest.warns(FutureWarning, match="now add_method") as caught:
        zoo.register("mine", task="surface", data="points")(zoo.model.Model)
    assert [warning.filename for warning in caught] == [__file__]
    assert "register" not in dir(zoo) + zoo.__all__


def test_every_model_class_has_an_entry_and_the_reverse():
    declared = {entry.where for entry in registry.find() if entry.where.startswith("zoo.")}
    written = set()
    files = [
        path for room in ("models", "registration") for path in (ROOT / "zoo" / room).glob("*.py")
    ]
    for path in files:
        module = importlib.import_module(module_of(path))
        for _, cls in inspect.getmembers(module, inspect.isclass):
            own = cls.__module__ == module.__name__ and issubclass(cls, zoo.model.Model)
            base = any(each.__module__.startswith("zoo.") for each in cls.__subclasses__())
            if own and not base:
                written.add(f"{module.__name__}:{cls.__qualname__}")
    assert declared == written


def test_no_two_test_files_have_one_name():
    # pytest imports them by their names alone.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
