"""The documentation site has every method, every public module and every page that it names."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.api import presets
from zoo.catalogue import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def loaded(name: str):
    """A file of docs/hooks as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = loaded("site")
TEXTS = {place: text for place, text in site.pages().items() if isinstance(text, str)}
WRITTEN = {str(path.relative_to(DOCS)): path.read_text() for path in DOCS.rglob("*.md")}
# A citation is read by a package that comes with MkDocs.
COMPLETED = {place: site.completed(text) for place, text in WRITTEN.items() if place != "citing.md"}


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_every_method_has_a_page(name):
    text = COMPLETED[f"methods/{name}.md"]
    assert f"`{name}`" in text.splitlines()[0]
    assert "## When to use it" in text and "## Equation" in text
    assert re.search(r"^::: zoo\.\w+\.\w+$", text, re.MULTILINE)
    for preset in presets(f"{name}.*"):
        assert f"## {preset.name}\n" in text and f'zoo.load("{preset.name}")' in text
    assert f"({name}.md)" in WRITTEN["methods/index.md"]


def test_every_public_module_is_shown_once():
    shown = [
        name
        for text in [*TEXTS.values(), *COMPLETED.values()]
        for name in re.findall(r"^::: (\S+)", text, re.MULTILINE)
    ]
    assert sorted(shown) == sorted(set(shown))
    for package in ("zoo", "registry", "pretrained"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            name = name.removesuffix(".__init__")
            own = name.startswith(site.NOT_SHOWN) or path.name == "train.py"
            if not own and ast.get_docstring(ast.parse(path.read_text())):
                assert name in shown


def test_every_page_is_in_the_navigation_and_the_reverse():
    def places(items):
        for item in items:
            if isinstance(item, dict):
                (item,) = item.values()
            yield from [item] if isinstance(item, str) else places(item)

    pages = {place for place in site.pages() if not place.startswith("pictures/")}
    assert sorted(places(site.navigation())) == sorted(pages | set(WRITTEN))


def test_pictures_of_pages_exist():
    made = site.pages()
    found = 0
    for place, text in COMPLETED.items():
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            where = os.path.normpath(Path(place).parent / picture)
            assert where in made or (DOCS / where).is_file(), f"{place}: {picture}"
            found += 1
    assert found >= 10
    assert all(content.is_file() for content in made.values() if isinstance(content, Path))


def test_sections_leave_comments_in_code_alone():
    text = "# Top\nIn short.\n## One\na\n```\n## no heading\n```\n### Two\nb\n## Three\nc"
    found = site.sections(text)
    assert list(found) == ["", "One", "Two", "Three"]
    assert found[""] == "In short." and found["Two"] == "b" and found["Three"] == "c"
    assert found["One"] == "a\n```\n## no heading\n```\n### Two\nb"
    assert site.shifted(found["One"], -1) == found["One"].replace("### Two", "## Two")


def test_what_the_package_offers_is_linked():
    assert all(f"[`zoo.{name}`]" in COMPLETED["api.md"] for name in zoo.__all__)


def test_commands_are_shown():
    assert all(f"## zoo {name}\n" in COMPLETED["command_line.md"] for name in ("list", "register"))


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pages = {path.name: path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    assert (
        'class="highlight"' in pages["zoo.losses.html"] and "&gt;&gt;&gt;" in pages["zoo.api.html"]
    )
    assert "@software" in pages["citing.html"]
    # Nothing is fetched by whoever reads it.
    assert not re.search(r"<(script|link)[^>]+(src|href)=\"https?:", pages["index.html"])


def test_examples_become_code():
    pytest.importorskip("griffe", reason="needs the extra: pip install -e '.[docs]'")
    fenced = loaded("examples").fenced
    text = "Words.\n\nExample:\n    >>> 1 + 1\n    2\n\nMore."
    expected = "Words.\n\nExample:\n    ```pycon\n    >>> 1 + 1\n    2\n    ```\n\nMore."
    assert fenced(text) == expected
