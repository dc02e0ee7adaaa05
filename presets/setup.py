"""Builds deformation-zoo-presets from the repository that it lies in: `pip install ./presets`."""

import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "pretrained" / "shipped.py").is_file():
    raise SystemExit(
        f"no presets in {ROOT / 'pretrained'}: build the wheel in a clone of the repository, "
        "`pip install ./presets` or `python -m build --wheel presets`"
    )
sys.path.insert(0, str(ROOT))

from pretrained import shipped  # noqa: E402  (needs the path)

NAME = "deformation_zoo_presets"
FOLDERS = shipped.divided(ROOT / "pretrained")[1]


class BuildPython(build_py):
    """Takes the presets along that the wheel of the zoo has not."""

    def run(self):
        if self.editable_mode:
            raise SystemExit("an editable install of the zoo has all presets: install that instead")
        # What an earlier build has left would be shipped, too.
        built = Path(self.build_lib, NAME)
        shutil.rmtree(built, ignore_errors=True)
        super().run()
        shutil.copy(ROOT / "LICENSE", built)  # of the recipes
        for folder in FOLDERS:
            target = built / "presets" / folder.parent.name / folder.name
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


setup(
    name="deformation-zoo-presets",
    version=re.search(r'__version__ = "(.*)"', (ROOT / "zoo/__init__.py").read_text())[1],
    description="Presets of the Deformation Zoo that its wheel does not hold",
    long_description="Weights under the terms of their data; each card names both.\n",
    author="The Deformation Zoo contributors",
    license_expression=" AND ".join(["Apache-2.0", *shipped.licences(FOLDERS)]),
    license_files=["LICENSES/*"],
    python_requires=">=3.11",
    install_requires=["deformation-zoo"],
    packages=[NAME],
    entry_points={"zoo.presets": [f"others = {NAME}:folder"]},
    cmdclass={"build_py": BuildPython},
)
