"""The registry: names, facts, old names, and plugins that work or do not."""

import os
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

import registry
from registry import Entry, UnknownName, add_method, find, get, rename

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def untouched():
    """Every test may register what it likes, and installs plugins for itself alone."""
    with registry.isolated():
        yield
    registry.reload()


def entry(name="thing", target="fractions:Fraction", task="registration", data="image", **facts):
    return Entry(name, target, task, data, **facts)


# Entries


def test_entry_loads_its_target():
    assert entry().load() is Fraction
    assert entry(target=Fraction).load() is Fraction


def test_one_value_stands_for_a_tuple_of_one():
    one = entry(data="points", dims=3, traits="diffeomorphic")
    assert (one.data, one.dims, one.traits) == (("points",), (3,), ("diffeomorphic",))
    assert entry(data=["image", "mesh"]).data == ("image", "mesh")


@pytest.mark.parametrize("name", ["", "Upper", "model.tag", "two words", "é", "line\n", None])
def test_entry_refuses_bad_names(name):
    with pytest.raises(ValueError, match="name: got .* expected lower case"):
        entry(name)


@pytest.mark.parametrize(
    ("fact", "value"),
    [("task", " "), ("data", 3), ("dims", "23"), ("traits", [1]), ("target", "no_class")],
)
def test_entry_refuses_bad_facts(fact, value):
    with pytest.raises((TypeError, ValueError), match=f"{fact} of 'thing': got .* expected"):
        entry(**{fact: value})


@pytest.mark.parametrize(
    ("target", "kind", "cause"),
    [
        ("no_such_module:Thing", ImportError, "No module named 'no_such_module'"),
        ("fractions:Fractoin", ImportError, "has no attribute 'Fractoin'"),
        ("math:pi", TypeError, "expected a class"),
    ],
)
def test_load_names_entry_target_and_cause(target, kind, cause):
    with pytest.raises(kind, match=f"'thing' from '{target}'.*{cause}"):
        entry(target=target).load()


# Registration


def test_an_entry_is_added():
    mine = entry("point-mover")
    assert add_method(mine) is mine
    assert get("point-mover") is mine


@pytest.mark.parametrize("how", [(("mine",), {}), ((), {"name": "mine"})])
def test_add_method_decorates_a_class(how):
    names, keywords = how

    @add_method(*names, **keywords, task="surface", data="mesh", dims=3)
    class Mine:
        """A method of mine.

        With details.
        """

    assert get("mine").load() is Mine
    assert get("mine").summary == "A method of mine."
    assert [e.name for e in find("mine", task="surface", data="mesh", dims=3)] == ["mine"]


def test_a_given_summary_wins_and_a_docstring_may_lack():
    add_method("told", task="t", data="image", summary="Told.")(
        type("Told", (), {"__doc__": "Doc"})
    )
    add_method("mute", task="t", data="image")(type("Mute", (), {}))
    assert (get("told").summary, get("mute").summary) == ("Told.", "")


def test_a_duplicate_raises_and_says_where_the_first_one_is():
    add_method(entry("point-mover"))
    other = entry("point_mover", "decimal:Decimal")
    with pytest.raises(ValueError, match="'point_mover' already stands for fractions:Fraction"):
        add_method(other)
    add_method(other, replace=True)
    assert [e.target for e in find("point?mover")] == ["decimal:Decimal"]


def test_add_method_refuses_what_it_cannot_use():
    with pytest.raises(TypeError, match="expected an Entry alone"):
        add_method(entry(), task="surface")
    with pytest.raises(TypeError, match="expected an Entry alone"):
        add_method("mine", name="other")
    with pytest.raises(TypeError, match="expected an Entry alone"):
        add_method(Fraction)
    with pytest.raises(TypeError, match="taks"):
        add_method("mine", taks="surface", data="mesh")(Fraction)
    with pytest.raises(TypeError, match="expected a class"):
        add_method("mine", task="surface", data="mesh")(len)


def test_register_is_the_old_name_of_add_method_and_warns():
    with pytest.warns(FutureWarning, match="register is now add_method") as caught:

        @registry.register("mine", task="surface", data="mesh")
        class Mine: ...

        registry.register(entry("thing"))
    assert [get("mine").load(), get("thing").load()] == [Mine, Fraction]
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert "register" not in registry.__all__


def test_isolated_undoes_everything():
    add_method(entry("kept"))
    with pytest.raises(ZeroDivisionError), registry.isolated():
        add_method(entry("kept", "decimal:Decimal"), replace=True)
        add_method(entry("dropped"))
        rename("older", "kept")
        raise ZeroDivisionError
    assert get("kept").target == "fractions:Fraction"
    for name in ("dropped", "older"):
        with pytest.raises(UnknownName):
            get(name)


# Lookup


@pytest.mark.parametrize("name", ["point-mover_2", "POINT_MOVER-2", "Point-Mover-2"])
def test_get_forgives_case_and_dashes(name):
    add_method(entry("point-mover_2"))
    assert get(name).name == "point-mover_2"


def test_unknown_name_offers_close_matches_in_a_plain_sentence():
    add_method(entry("point-mover"))
    with pytest.raises(KeyError) as caught:
        get("Point_Movre")
    assert isinstance(caught.value, UnknownName)
    assert str(caught.value).startswith(
        "Nothing is named 'Point_Movre'. Did you mean 'point-mover'"
    )
    assert str(caught.value).endswith("find('*') lists every name.")


def test_names_are_strings():
    for ask in (get, find):
        with pytest.raises(TypeError, match="got 3, expected a string"):
            ask(3)


@pytest.fixture
def things():
    add_method(entry("test-c", task="surface", data=("points", "mesh"), dims=3))
    add_method(entry("test-a", data="image", traits=("amortised", "diffeomorphic")))
    add_method(entry("test-b", data=("image", "points"), dims=2, traits="amortised"))


@pytest.mark.parametrize(
    ("pattern", "facts", "expected"),
    [
        ("test-*", {}, "abc"),
        ("TEST_*", {}, "abc"),
        ("test-[a-b]", {}, "ab"),
        ("test?c", {}, "c"),
        ("test", {}, ""),
        ("test-*", {"task": "registration"}, "ab"),
        ("test-*", {"data": "points"}, "bc"),
        ("test-*", {"data": ("image", "points")}, "b"),
        ("test-*", {"dims": 2}, "ab"),
        ("test-*", {"dims": (2, 3)}, "a"),
        ("test-*", {"traits": {"amortised"}, "data": "points"}, "b"),
        ("test-*", {"traits": ["amortised", "diffeomorphic"]}, "a"),
    ],
)
def test_find_by_pattern_and_facts(things, pattern, facts, expected):
    assert [e.name for e in find(pattern, **facts)] == [f"test-{letter}" for letter in expected]


def test_find_names_the_facts_it_knows(things):
    with pytest.raises(TypeError, match="got colour, expected some of task, data, dims, traits"):
        find(colour="red")


# Old names


def test_an_old_name_forwards_and_warns():
    add_method(entry("new-name"))
    rename("old-name", "new_name")
    with pytest.warns(FutureWarning, match="'Old_Name' is now 'new-name'") as caught:
        assert get("Old_Name").name == "new-name"
    assert caught[0].filename == __file__
    assert not find("old-name")


def test_an_old_name_shadows_nothing():
    add_method(entry("here"))
    add_method(entry("there"))
    with pytest.raises(ValueError, match="'HERE', the name of fractions:Fraction"):
        rename("HERE", "there")
    with pytest.raises(UnknownName, match="Did you mean 'there'"):
        rename("old", "theer")
    rename("old", "there")
    with pytest.raises(ValueError, match="already stands for"):
        add_method(entry("old"))
    add_method(entry("old", "decimal:Decimal"), replace=True)
    assert get("old").target == "decimal:Decimal"


# Plugins, as they look to importlib.metadata


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a distribution of one module on the path."""

    def install(name, source="", models="", presets=""):
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(f"from registry import *\n{source}")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[zoo.models]\n{models}\n[zoo.presets]\n{presets}\n"
        )
        monkeypatch.delitem(sys.modules, module, raising=False)
        registry.reload()

    monkeypatch.syspath_prepend(tmp_path)
    return install


ONE = "def one(name): return Entry(name, 'fractions:Fraction', 'registration', 'image')\n"


def test_a_plugin_gives_one_or_many_or_a_function(install):
    source = f"{ONE}ONE = one('p-one')\nMANY = [one('p-two'), one('p-three')]\n"
    source += "def several(): yield from [one('p-four')]\n"
    points = "a = zoo_p:ONE\nb = zoo_p:MANY\nc = zoo_p:several"
    install("zoo-p", source, points)
    assert [e.name for e in find("p-*")] == ["p-four", "p-one", "p-three", "p-two"]
    assert get("P_Two").plugin == "zoo-p"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise ValueError('sorry')", "ValueError: sorry"),
        ("raise SystemExit('sorry')", "SystemExit: sorry"),
        ("class Odd(BaseException): pass\nraise Odd('sorry')", "Odd: sorry"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("raise GeneratorExit('sorry')", "GeneratorExit: sorry"),
        ("class M(Exception):\n def __str__(self): 1 / 0\nraise M", "M: (ZeroDivisionError when"),
        ("raise ValueError('long' * 10**6)", "ValueError: longlong"),
        (
            "import itertools\nENTRIES = itertools.repeat(1)",
            "ValueError: zoo_bad:ENTRIES gave",
        ),
        ("this is no python", "SyntaxError: "),
        ("", "AttributeError: "),
        ("ENTRIES = 1 / 0", "ZeroDivisionError: "),
        ("ENTRIES = [1]", "TypeError: zoo_bad:ENTRIES gave 1, expected a registry.Entry"),
        ("class ENTRIES: pass", "TypeError: zoo_bad:ENTRIES gave <class"),
        ("def ENTRIES(): raise OSError('sorry')", "OSError: sorry"),
    ],
)
def test_a_broken_plugin_is_listed_and_hurts_nobody(install, source, error):
    install("zoo-good", f"{ONE}ENTRIES = one('p-good')", "good = zoo_good:ENTRIES")
    install("zoo-bad", source, "P.bad = zoo_bad:ENTRIES")
    bad, good = find("p-*")
    assert good.load() is Fraction
    assert (bad.name, bad.plugin, bad.target) == ("p-bad", "zoo-bad", "zoo_bad:ENTRIES")
    assert bad.error.startswith(error)
    with pytest.raises(RuntimeError, match="plugin 'zoo-bad'.*could not be loaded: ") as caught:
        get("p-bad").load()
    assert bad.error in str(caught.value)
    assert find("p-*", task="registration") == [good]
    with pytest.raises(UnknownName, match="could not be loaded: p-bad"):
        get("unlike-anything")


def test_a_plugin_overrides_nothing(install):
    add_method(entry("built-in", "decimal:Decimal"))
    install("zoo-b", f"{ONE}E = [one('built_in'), one('shared')]", "entries = zoo_b:E")
    install("zoo-c", f"{ONE}E = one('shared')", "entries = zoo_c:E")
    install("zoo-a", "raise ValueError('sorry')", "shared = zoo_a:E")
    assert get("built-in").target == "decimal:Decimal"
    assert (get("shared").plugin, get("shared").error) == ("zoo-b", "")
    assert {e.name: e.error for e in find() if e.error} == {
        "zoo-a-shared": "ValueError: sorry",
        "zoo-b-built_in": "ValueError: the name 'built_in' already stands for decimal:Decimal",
        "zoo-c-shared": "ValueError: the name 'shared' already stands for fractions:Fraction",
    }


def test_a_plugin_that_sleeps_is_not_waited_for(install, monkeypatch):
    monkeypatch.setattr(registry.plugins, "PATIENCE", 0.2)
    install("zoo-bad", "import time\ntime.sleep(30)", "p-bad = zoo_bad:E", "p = zoo_bad:E")
    install("zoo-good", f"{ONE}ENTRIES = one('p-good')", "good = zoo_good:ENTRIES")
    start = time.monotonic()
    assert [e.name for e in find("p-*", task="registration")] == ["p-good"]
    assert registry.preset_folders() == []
    assert time.monotonic() - start < 5
    assert get("p-bad").error == "TimeoutError: not loaded after 0.2 s"
    assert registry.broken_presets() == {"p": "TimeoutError: not loaded after 0.2 s"}


def test_a_plugin_replaces_no_name_while_it_is_imported(install):
    add_method(entry("here", "decimal:Decimal"))
    source = f"{ONE}add_method(one('here'), replace=True)\nE = []"
    install("zoo-p", source, "p-bad = zoo_p:E")
    assert [e.name for e in find("here")] == ["here"]
    assert get("here").target == "decimal:Decimal"
    assert get("p-bad").error.endswith("a plugin replaces nothing")


def test_an_entry_of_a_class_of_its_own_is_a_plain_one(install):
    source = (
        "class Odd(Entry):\n    @property\n    def where(self): raise OSError\n"
        "E = Odd('p-odd', 'fractions:Fraction', 'registration', 'image')"
    )
    install("zoo-p", source, "p = zoo_p:E")
    assert type(find("p-*")[0]) is Entry and get("p-odd").where == "fractions:Fraction"


def test_a_distribution_that_cannot_be_read_hides_no_other(install, tmp_path):
    install("zoo-good", f"{ONE}ENTRIES = one('p-good')", "good = zoo_good:ENTRIES")
    install("zoo-bad")
    (tmp_path / "zoo_bad-1.0.dist-info" / "entry_points.txt").write_bytes(b"[zoo.models]\n\xff\xfe")
    registry.reload()
    assert [e.name for e in find("p-*")] == ["p-good"]


def test_a_plugin_may_use_the_registry_while_it_is_imported(install):
    source = (
        f"{ONE}SEEN = [e.name for e in find('p-*')]\nadd_method(one('p-two'))\nE = one('p-one')"
    )
    install("zoo-p", source, "p = zoo_p:E")
    assert get("p-two").load() is Fraction
    assert [e.name for e in find("p-*")] == ["p-one", "p-two"]


def test_plugins_load_once_and_only_when_needed(install):
    add_method(entry("here"))
    install("zoo-p", "E = []", "p = zoo_p:E")
    get("here")
    assert "zoo_p" not in sys.modules
    find("nothing")
    assert sys.modules.pop("zoo_p")
    find("nothing")
    assert "zoo_p" not in sys.modules
    registry.reload()
    find("nothing")
    assert "zoo_p" in sys.modules


def test_preset_folders_and_the_broken_ones(install, tmp_path):
    source = f"HERE = {str(tmp_path)!r}\ndef here(): return HERE\ndef bad(): return 3"
    points = ["a = zoo_p:HERE", "b = zoo_p:here", "c = zoo_p:bad", "d = zoo_p:__file__"]
    install("zoo-p", source, presets="\n".join(points))
    install("zoo-q", "raise ValueError('sorry')", presets="c = zoo_q:HERE")
    assert registry.preset_folders().count(tmp_path) == 2
    broken = registry.broken_presets()
    assert broken["c"] == "TypeError: zoo_p:bad gave 3, expected a path"
    assert broken["d"].startswith("NotADirectoryError: zoo_p:__file__ gave ")
    assert broken["zoo-q-c"] == "ValueError: sorry"


# Plugins, installed for real


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages in which pip installed the example plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    source, site = folder / "source", folder / "site"
    shutil.copytree(ROOT / "tests" / "plugin", source)  # building leaves files behind
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *alone, "--target", site, source], check=True)
    return site


def in_new_process(code, *folders):
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    command = [sys.executable, "-c", f"import sys, registry\n{code}"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_plugin_works(site):
    code = """
print(registry.get("Mirror").load().__module__)
print(registry.get("mirror").plugin)
print(registry.get("broken").error)
print([e.name for e in registry.find("mirror", task="registration", data="points")])
print([f.name for f in registry.preset_folders() if (f / "README.md").exists()])
print(registry.broken_presets())
try:
    registry.get("broken").load()
except RuntimeError as error:
    print("zoo-plugin-example" in str(error))
"""
    assert in_new_process(code, site) == [
        "zoo_plugin_example.mirror",
        "zoo-plugin-example",
        "ImportError: needs the package nonexistent_dependency",
        "['mirror']",
        "['presets']",
        "{}",
        "True",
    ]


def test_listing_imports_nothing_heavy(site):
    code = """
print("zoo_plugin_example" in sys.modules)
print({"mirror", "broken"} <= {e.name for e in registry.find("*")})
heavy = "numpy keras tensorflow torch pretrained zoo_plugin_example.mirror".split()
print([name for name in heavy if name in sys.modules])
"""
    assert in_new_process(code, site) == ["False", "True", "[]"]
