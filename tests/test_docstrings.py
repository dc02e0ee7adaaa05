"""The examples of the docstrings are run, one test for each; `np` and `zoo` are known in them."""

import ast
import doctest
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

import registry
import zoo
import zoo.catalogue

ROOT = Path(zoo.__file__).resolve().parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PARSER = doctest.DocTestParser()

# What a user meets first.
SHOWN = """
registry.catalogue: add_method
zoo.api: create describe find load
zoo.data.chessboard: ChessboardPairs
zoo.data.cloud_draws: DeformedClouds
zoo.data.figures: figure_pair
zoo.data.image: Image
zoo.data.lungs: lung_pair
zoo.data.outlines: ShapePairs
zoo.data.pair: Pair Pair.read
zoo.data.pairs: all_pairs
zoo.data.scan: Scan
zoo.data.vessels: vessel_pair
zoo.geometry: Grid
zoo.layers.bspline: BSplineAdjoint BSplineExpand
zoo.layers.coordinate_mlp: CoordinateMLP
zoo.layers.edge_conv: EdgeConv
zoo.layers.fields_of_experts: FieldsOfExperts
zoo.layers.integration: Compose ScalingAndSquaring
zoo.layers.point_conv: PointConv
zoo.layers.rasteriser: Rasteriser
zoo.layers.residual_flow: ResidualFlow
zoo.layers.spatial_transformer: SpatialTransformer
zoo.losses.clouds: Chamfer DensityDistance
zoo.losses.labels: Dice
zoo.losses.mind: MIND
zoo.losses.mutual_information: MutualInformation
zoo.losses.shapes: Sinkhorn Varifold
zoo.losses.similarity: LNCC NCC
zoo.losses.smoothness: Bending Diffusion
zoo.metrics.registration: dice_scores fold_percentage hausdorff95 sd_log_jacobian
zoo.metrics.registration: target_registration_error
zoo.metrics.surface: cloud_distances
zoo.ops.gradients: value_and_gradient
zoo.ops.sampling: sample warp
zoo.ops.splatting: splat
zoo.registration.chain: Chain
zoo.transform: Transform.__matmul__ Transform.inverse Transform.move Transform.pull
zoo.transform: Transform.save Transform.warp
"""


def shown() -> set[str]:
    """The names of `SHOWN`, as `module:name`."""
    lines = [line.split(": ") for line in SHOWN.split("\n") if line]
    return {f"{module}:{name}" for module, names in lines for name in names.split()}


def examples_of(path: Path) -> list[str]:
    """Functions, classes and methods of a file whose docstrings have examples that are run."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    found = []

    def search(node, names):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = (*names, child.name)
                examples = PARSER.get_examples(ast.get_docstring(child) or "")
                if any(doctest.SKIP not in example.options for example in examples):
                    found.append(f"{module}:{'.'.join(inner)}")
                search(child, inner)

    search(ast.parse(path.read_text()), ())
    return found


EXAMPLES = [
    name
    for room in ("registry", "pretrained", "zoo")
    for path in sorted((ROOT / room).rglob("*.py"))
    for name in examples_of(path)
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, _, path = name.partition(":")
    thing = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(thing, name, globs={"np": np, "zoo": zoo})
    said = []
    keras.utils.set_random_seed(0)
    with registry.isolated():
        result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert result.attempted and not result.failed, "".join(said)


def test_what_a_user_meets_first_has_an_example():
    assert shown() <= set(EXAMPLES), f"without: {sorted(shown() - set(EXAMPLES))}"
    assert len(shown()) >= 50
