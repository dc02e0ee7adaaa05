"""What a class can be given: names, types, defaults and meanings of its constructor's arguments.

A class that is named by `"package.module:Class"` is read from its source, not imported, because
importing a method means importing a framework, and a misspelt argument should not take seconds.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

# What their classes can be given, such as a dtype, is not what tells one method from another.
FRAMEWORKS = ("keras", "tensorflow", "torch", "jax")


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        name: As it is given.
        type: The annotation as it is written; empty without one.
        default: As it is written; None for an argument that has to be given.
        meaning: What the docstring says, in one line.
    """

    name: str
    type: str = ""
    default: str | None = None
    meaning: str = ""

    @property
    def value(self) -> Any:
        """The default itself where it is a literal; otherwise as it is written."""
        try:
            return ast.literal_eval(self.default)
        except (ValueError, SyntaxError, TypeError):
            return self.default

    def __str__(self) -> str:
        """The argument in one line, with the first sentence of its meaning."""
        default = "to be given" if self.default is None else self.default
        sentence = re.split(r"(?<=\w[\w)\"])\. (?=[A-Z])", self.meaning)[0].rstrip(".")
        return f"{self.name} = {default}" + (f": {sentence}" if sentence else "")


def arguments(target: str | type) -> tuple[Argument, ...] | None:
    """The arguments of a class, in the order of its signature.

    Where `**kwargs` are passed on, those of the base classes follow, up to the ones of a framework.
    A data class has its fields.

    Args:
        target: `"package.module:Class"`, which is not imported, or a class.

    Returns:
        The arguments; None where there is no source to read them from, or no constructor in it.
    """
    layers = _imported(target) if isinstance(target, type) else _written(*target.split(":", 1))
    found: dict[str, Argument] = {}
    known = False
    for own, passes_on in layers:
        known = True
        for argument in own:
            found.setdefault(argument.name, argument)
        if not passes_on:
            break
    return tuple(found.values()) if known else None


# A layer is a class with a constructor of its own: its arguments, and whether it passes others on.
_Layer = tuple[list[Argument], bool]


def _imported(cls: type) -> Iterator[_Layer]:
    for each in cls.__mro__[:-1]:
        if each.__module__.partition(".")[0] in FRAMEWORKS:
            return
        if "__init__" not in vars(each):
            continue
        try:
            parameters = list(inspect.signature(each.__init__).parameters.values())[1:]
        except (TypeError, ValueError):
            return
        meanings = _meanings(each.__doc__ or "") or _meanings(each.__init__.__doc__ or "")
        own = [
            Argument(
                p.name,
                "" if p.annotation is p.empty else _text(p.annotation),
                None if p.default is p.empty else repr(p.default),
                meanings.get(p.name, ""),
            )
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        yield own, any(p.kind == p.VAR_KEYWORD for p in parameters)


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _written(module: str, path: str) -> Iterator[_Layer]:
    """The layers of a class from its source: its own, then those of its bases in turn."""
    waiting, seen = [(module, path)], set()
    while waiting:
        place = waiting.pop(0)
        found = None if place in seen else _definition(*place, seen)
        seen.add(place)
        if found is None:
            continue
        module, tree, node = found
        layer = _layer_of(node)
        if layer is not None:
            yield layer
        waiting[:0] = [base for each in node.bases if (base := _origin(each, module, tree))]


def _definition(module: str, path: str, seen: set) -> tuple[str, ast.Module, ast.ClassDef] | None:
    """The module, its tree and the class in it; follows a name that is only imported there."""
    if module.partition(".")[0] in FRAMEWORKS or (tree := _tree(module)) is None:
        return None
    scope: ast.Module | ast.ClassDef = tree
    for name in path.split("."):
        inner = [n for n in scope.body if isinstance(n, ast.ClassDef) and n.name == name]
        if not inner:
            break
        scope = inner[-1]
    else:
        return module, tree, scope
    first = ast.parse(path, mode="eval").body
    origin = None if scope is not tree else _origin(first, module, tree)
    if origin is None or origin in seen:
        return None
    seen.add(origin)
    return _definition(*origin, seen)


def _origin(expression: ast.expr, module: str, tree: ast.Module) -> tuple[str, str] | None:
    """Where a name such as `Base` or `package.Base` in a module comes from: module and class."""
    first, *rest = ast.unparse(expression).split(".")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == first:
            return module, ".".join([first, *rest])
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name.partition(".")[0]) != first:
                continue
            if isinstance(node, ast.ImportFrom):
                source = _absolute(node, module)
                if rest:
                    return ".".join([source, alias.name, *rest[:-1]]), rest[-1]
                return source, alias.name
            if rest:
                start = alias.name if alias.asname else first
                return ".".join([start, *rest[:-1]]), rest[-1]
    return None


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    is_package = (file := _file(module)) is not None and file.name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _file(module: str) -> Path | None:
    """The source of a module. `find_spec` of a whole dotted name would import its packages."""
    first, *rest = module.split(".")
    try:
        spec, name = importlib.util.find_spec(first), first
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = f"{name}.{part}"
            spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    try:
        return None if file is None else ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _layer_of(node: ast.ClassDef) -> _Layer | None:
    meanings = _meanings(ast.get_docstring(node) or "")
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            meanings = meanings or _meanings(ast.get_docstring(each) or "")
            return _of_function(each.args, meanings), each.args.kwarg is not None
    decorators = {
        ast.unparse(each).partition("(")[0].split(".")[-1] for each in node.decorator_list
    }
    if "dataclass" not in decorators:
        return None
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    own = [
        Argument(
            field.target.id,
            ast.unparse(field.annotation),
            field.value and ast.unparse(field.value),
            meanings.get(field.target.id, ""),
        )
        for field in fields
        if isinstance(field.target, ast.Name) and "ClassVar" not in ast.unparse(field.annotation)
    ]
    return own, True  # the fields of its bases as well


def _of_function(given: ast.arguments, meanings: dict[str, str]) -> list[Argument]:
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults
    pairs = [*zip(positional, defaults, strict=True)][1:]  # without self
    pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return [
        Argument(
            each.arg,
            each.annotation and ast.unparse(each.annotation) or "",
            default and ast.unparse(default),
            meanings.get(each.arg, ""),
        )
        for each, default in pairs
    ]


def _meanings(docstring: str) -> dict[str, str]:
    """The section `Args` (or `Attributes`) of a Google docstring, each entry as one line."""
    section = re.search(
        r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(docstring), re.MULTILINE
    )
    found: dict[str, list[str]] = {}
    names: list[str] = []
    if section is None:
        return {}
    lines = [line for line in section[1].splitlines() if line.strip()]
    indent = len(lines[0]) - len(lines[0].lstrip())
    for line in lines:
        text = line.strip()
        begins = re.match(r"([*\w]+(?:, [*\w]+)*)(?: \([^)]*\))?:\s*(.*)", text)
        if begins and len(line) - len(line.lstrip()) == indent:
            names, text = [name.lstrip("*") for name in begins[1].split(", ")], begins[2]
        for name in names:
            found.setdefault(name, []).append(text)
    return {name: " ".join(filter(None, texts)) for name, texts in found.items()}
