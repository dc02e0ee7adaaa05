"""The generated half of the site: pages of the API, cards of presets, parts of the README.

`pages` and `navigation` say what there is, without MkDocs; the functions `on_...` hand it over.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from pathlib import Path

import pretrained
import zoo
from zoo.api import presets
from zoo.catalogue import ENTRIES
from zoo.cli import parser
from zoo.metrics.units import UNITS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("zoo", "registry", "pretrained")
# Read by whoever writes presets or commands of the zoo, not by those who use it.
NOT_SHOWN = ("zoo.cli", "zoo.recipes", "zoo.__main__", "zoo.demo")
PREVIEW = re.compile(r"\]\(pretrained/(\w+)/(\w+)/preview\.png\)")
HEADING = re.compile(r"^(#+) (.*)$")


def modules() -> dict[str, list[str]]:
    """The public modules with something to show, by room: of `zoo` a folder or a file.

    Those of the methods are shown on the pages of these.
    """
    rooms: dict[str, list[str]] = {}
    methods = {entry.where.partition(":")[0] for entry in ENTRIES}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            hidden = any(part.startswith("_") for part in name.split(".")) or name in NOT_SHOWN
            hidden = hidden or name.startswith(tuple(f"{each}." for each in NOT_SHOWN))
            presets_own = package == "pretrained" and len(parts) > 2
            if hidden or presets_own or name in methods or not _documented(path):
                continue
            room = ".".join(name.split(".")[:2]) if package == "zoo" else package
            rooms.setdefault(room, []).append(name)
    return rooms


def _own(module: str) -> str:
    """A module with what it defines itself: a package also offers what its files define."""
    path = ROOT / module.replace(".", "/") / "__init__.py"
    if not path.is_file():
        return f"::: {module}"
    body = ast.parse(path.read_text()).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names = [name for name in names if not name.startswith("_")]
    return f"::: {module}\n    options:\n      members: {names or 'false'}"


def _documented(path: Path) -> bool:
    return ast.get_docstring(ast.parse(path.read_text())) is not None


def sections(text: str) -> dict[str, str]:
    """The parts of a Markdown text by their headings, each with the parts below it.

    What stands before the first heading of the second level is under "".
    """
    found: dict[str, list[str]] = {"": []}
    open_: list[tuple[int, str]] = []
    for line, heading in _lines(text):
        if heading and len(heading[1]) > 1:
            open_ = [each for each in open_ if each[0] < len(heading[1])]
            open_.append((len(heading[1]), heading[2]))
            found[heading[2]] = []
        for _, title in open_:
            found[title].append(line)
        if not open_:
            found[""].append(line)
    return {title: "\n".join(lines[1:]).strip() for title, lines in found.items()}


def shifted(text: str, by: int) -> str:
    """A Markdown text with its headings so many levels lower."""
    return "\n".join(
        f"{'#' * (len(heading[1]) + by)} {heading[2]}" if heading else line
        for line, heading in _lines(text)
    )


def _lines(text: str):
    """Lines with their match as a heading; comments in blocks of code are none."""
    fenced = False
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        yield line, None if fenced else HEADING.match(line)


def readme(title: str = "") -> str:
    """A section of the README, or its beginning, for a page of its own, with its pictures."""
    text = shifted(sections((ROOT / "README.md").read_text())[title], -1)
    text = PREVIEW.sub(r"](pictures/\1.\2.png)", text)
    return text.replace("](docs/", "](")


def command_line() -> str:
    """The help of every command of the shell."""
    os.environ["COLUMNS"] = "98"
    top = parser()
    commands = next(action.choices for action in top._actions if isinstance(action.choices, dict))
    parts = [f"```text\n{top.format_help()}```"]
    parts += [
        f"## zoo {name}\n\n```text\n{each.format_help()}```" for name, each in commands.items()
    ]
    return "\n\n".join(parts)


def unit_table() -> str:
    """The unit of every metric."""
    rows = [
        f"| {task} | `{metric}` | {unit} |"
        for task, metrics in UNITS.items()
        for metric, unit in metrics.items()
    ]
    return "\n".join(["| Task | Metric | Unit |", "| --- | --- | --- |", *rows])


def citation() -> str:
    """What CITATION.cff says, as an entry of BibTeX."""
    import yaml  # comes with MkDocs

    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    names = [
        each.get("name") or f"{each['family-names']}, {each['given-names']}"
        for each in facts["authors"]
    ]
    fields = {
        "author": " and ".join(f"{{{name}}}" for name in names),
        "title": f"{{{facts['title']}}}",
        "version": facts["version"],
        "license": facts["license"],
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    block = "\n".join(["@software{deformation_zoo,", *lines, "}"])
    papers = [f"- `{entry.name}`: {entry.paper}" for entry in ENTRIES if entry.paper]
    return "\n".join(
        [facts["message"], "", "```bibtex", block, "```", "", "## Papers", "", *papers]
    )


def front() -> str:
    """What `import zoo` offers, with links."""
    homes = {name: getattr(zoo, name).__module__ for name in zoo.__all__}
    rows = [f"| [`zoo.{name}`][{home}.{name}] |" for name, home in homes.items()]
    return "\n".join(["| Name |", "| --- |", *rows])


def method(name: str) -> str:
    """What is generated of the page of a method: facts, arguments, and cards of its presets."""
    entry = next(entry for entry in ENTRIES if entry.name == name)
    facts = {
        "Task": entry.task,
        "Data": ", ".join(entry.data),
        "Dimensions": ", ".join(map(str, entry.dims)),
        "Traits": ", ".join(entry.traits),
        "Paper": entry.paper,
    }
    parts = ["## Facts", "\n".join(f"- {key}: {value}" for key, value in facts.items() if value)]
    parts += [f"::: {entry.where.partition(':')[0]}"]
    for preset in presets(f"{name}.*"):
        shown = (preset.folder / "preview.png").is_file()
        card = pretrained.card(preset.manifest, shown, handle=preset.name)
        parts.append(
            shifted(card, 1).replace("](preview.png)", f"](../pictures/{preset.name}.png)")
        )
    return "\n\n".join(parts)


# What a page may ask for: `<!-- insert: readme The tour -->`.
INSERTED: dict[str, Callable[..., str]] = {
    "citation": citation,
    "command_line": command_line,
    "front": front,
    "method": method,
    "readme": readme,
    "unit_table": unit_table,
}
INSERT = re.compile(r"^<!-- insert: (\w+)(?: (.+))? -->$", re.MULTILINE)


def completed(text: str) -> str:
    """A page with what it asks for."""
    return INSERT.sub(lambda found: INSERTED[found[1]](*filter(None, [found[2]])), text)


def pages() -> dict[str, str | Path]:
    """The generated files of the site by their place: their text, or the file that is copied."""
    made: dict[str, str | Path] = {}
    for room, names in modules().items():
        shown = "\n\n".join(_own(name) for name in names)
        made[f"api/{room}.md"] = f"# {room}\n\n{shown}\n"
    for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
        made[f"tutorials/{notebook.name}"] = notebook
    for preset in presets():
        if (preset.folder / "preview.png").is_file():
            made[f"pictures/{preset.name}.png"] = preset.folder / "preview.png"
    return made


def navigation() -> list:
    """The pages in the order in which a reader may want them."""
    made = pages()
    methods = [f"methods/{entry.name}.md" for entry in ENTRIES]
    return [
        {"Home": "index.md"},
        {"Installation": "installation.md"},
        {"Tour": "tour.md"},
        {"Conventions": "conventions.md"},
        {"Methods": ["methods/index.md", *methods]},
        {"Tutorials": [page for page in made if page.startswith("tutorials/")]},
        {"Command line": "command_line.md"},
        {"Interactive pages": "pages.md"},
        {"How it is built": "how_it_is_built.md"},
        {"Benchmarks": "benchmarks.md"},
        {"API": ["api.md", *(page for page in made if page.startswith("api/"))]},
        {"How to cite": "citing.md"},
    ]


def on_config(config):
    config.nav = navigation()
    return config


def on_files(files, config):
    from mkdocs.structure.files import File

    for place, content in pages().items():
        if isinstance(content, str):
            file = File.generated(config, place, content=content)
        elif content == ROOT / place:
            # As if the folder lay in docs: the plugin of notebooks knows no generated files.
            file = File(place, str(ROOT), config.site_dir, config.use_directory_urls)
        else:
            file = File.generated(config, place, abs_src_path=str(content))
        files.append(file)
    return files


# Before the plugin that renders notebooks looks for them.
on_files.mkdocs_priority = 100


def on_page_markdown(markdown, **kwargs):
    return completed(markdown)
