"""Builds wheels; what is the same in all of them is in setup.cfg.

In the repository `registry` and `pretrained` lie beside `zoo`, so that anybody sees that they stand
alone. Names as general as these would clash with others' in site-packages, so that a wheel has them
inside, as `zoo.registry` and `zoo.pretrained`, and of the presets those that are free for all.
"""

import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from pretrained import shipped  # noqa: E402  (needs the path)

LEAVES = ("pretrained", "registry")
IMPORTS = re.compile(r"^( *)(?:from (pretrained|registry)\b|import (pretrained|registry)$)", re.M)


def moved(found: re.Match) -> str:
    """An import of a leaf, as it is in a wheel."""
    indent, part, whole = found.groups()
    return f"{indent}from zoo.{part}" if part else f"{indent}from zoo import {whole}"


class BuildPython(build_py):
    """Moves the leaves into the package, and leaves out the presets that a wheel has not."""

    def run(self):
        if self.editable_mode:
            return
        built = Path(self.build_lib)
        # What an earlier build has left would be shipped, too.
        for name in ("zoo", *LEAVES):
            shutil.rmtree(built / name, ignore_errors=True)
        super().run()
        for name in LEAVES:
            (built / name).rename(built / "zoo" / name)
        presets = built / "zoo" / "pretrained"
        shipped.reduce(presets)
        for path in (built / "zoo").rglob("*.py"):
            # Recipes are hashed, and import no leaf.
            if path.parents[2] != presets:
                path.write_text(IMPORTS.sub(moved, path.read_text("utf-8")), "utf-8")


class SourceDistribution(sdist):
    """Holds of the presets what a wheel holds."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        shipped.reduce(Path(base_dir, "pretrained"))


class Information(egg_info):
    """Says what is at the top of a wheel."""

    def write_file(self, what, filename, data):
        super().write_file(what, filename, "zoo\n" if what == "top-level names" else data)


setup(
    license_expression=" AND ".join(
        ["Apache-2.0", *shipped.licences(shipped.divided(ROOT / "pretrained")[0])]
    ),
    cmdclass={"build_py": BuildPython, "sdist": SourceDistribution, "egg_info": Information},
)
