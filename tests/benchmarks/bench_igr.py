"""IGR beside its PyTorch formulation: the training step of 8 x 512, and meshing at 256^3.

    python tests/benchmarks/bench_igr.py [--quick]

Each row runs in a process of its own, ours and theirs in turn, so neither warms or crowds the
other; the table gives medians and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WIDTH, DEPTH, SKIP, BATCH, RESOLUTION, BETA = 512, 8, 4, 2048, 256, 100.0
PRESET, MESH_WIDTH = "igr.koala", 256  # 8 x 256
SHARE = 16  # the dense grid takes minutes: every 16th point stands for all


def timed(step, repeats: int) -> float:
    step()
    step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def our_step(repeats: int) -> float:
    import keras
    import numpy as np

    import zoo
    from zoo.data.shapes import torus
    from zoo.data.surface_batches import SurfaceSampler
    from zoo.models.igr import AUTHORS

    keras.utils.set_random_seed(0)
    model = zoo.create("igr", **AUTHORS)
    batch = SurfaceSampler(torus(BATCH * 2), points=BATCH)[0][0]
    return timed(lambda: np.asarray(model.train_on_batch(batch)), repeats)


def torch_network(width: int):
    import torch

    class Network(torch.nn.Module):
        """The authors' network: softplus of beta 100, input concatenated before layer 4."""

        def __init__(self):
            super().__init__()
            widths = [3] + [width] * DEPTH + [1]
            self.layers = torch.nn.ModuleList(
                torch.nn.Linear(widths[i], widths[i + 1] - 3 * (i + 1 == SKIP))
                for i in range(DEPTH + 1)
            )
            self.activation = torch.nn.Softplus(beta=BETA)

        def forward(self, points):
            hidden = points
            for index, layer in enumerate(self.layers):
                if index == SKIP:
                    hidden = torch.cat([hidden, points], -1) / 2**0.5
                hidden = layer(hidden)
                if index < DEPTH:
                    hidden = self.activation(hidden)
            return hidden

    torch.manual_seed(0)
    return Network()


def torch_step(repeats: int) -> float:
    import torch

    from zoo.data.shapes import torus
    from zoo.data.surface_batches import SurfaceSampler

    network = torch_network(WIDTH)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    batch = SurfaceSampler(torus(BATCH * 2), points=BATCH)[0][0]
    surface, normals, off = (
        torch.from_numpy(batch[name]) for name in ("surface", "normals", "off_surface")
    )

    def gradient(values, points):
        ones = torch.ones_like(values)
        return torch.autograd.grad(values, points, ones, create_graph=True)[0]

    def step():
        on, away = surface.clone().requires_grad_(), off.clone().requires_grad_()
        on_values, away_values = network(on), network(away)
        loss = (
            on_values.abs().mean()
            + (gradient(on_values, on) - normals).norm(dim=1).mean()
            + 0.1 * ((gradient(away_values, away).norm(dim=1) - 1) ** 2).mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return timed(step, repeats)


def our_mesh(repeats: int) -> float:
    import zoo

    model = zoo.load(PRESET)
    return timed(lambda: model.mesh(RESOLUTION), repeats)


def some_of_the_grid():
    """Every 16th point of the dense grid, which is timed for all of it."""
    import numpy as np

    axis = np.linspace(-1.2, 1.2, RESOLUTION + 1, dtype="float32")
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)[::SHARE]


def our_dense_grid() -> float:
    import zoo

    model, points = zoo.load(PRESET), some_of_the_grid()
    model.predict(points[:20_000])
    start = time.perf_counter()
    model.predict(points)
    return SHARE * (time.perf_counter() - start)


def torch_dense_grid() -> float:
    import torch

    network, points = torch_network(MESH_WIDTH), some_of_the_grid()
    start = time.perf_counter()
    with torch.no_grad():
        for piece in torch.from_numpy(points).split(100_000):
            network(piece)
    return SHARE * (time.perf_counter() - start)


CASES = {
    "our_step": lambda quick: our_step(3 if quick else 15),
    "torch_step": lambda quick: torch_step(3 if quick else 15),
    "our_sparse_mesh": lambda quick: our_mesh(1 if quick else 3),
    "our_dense_grid": lambda quick: our_dense_grid(),
    "torch_dense_grid": lambda quick: torch_dense_grid(),
}


def measure(case: str, quick: bool) -> dict:
    words = [sys.executable, __file__, "--case", case] + ["--quick"] * quick
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        seconds = CASES[options.case](options.quick)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "gib": peak}))
        return
    rounds = 1 if options.quick else 2
    results = {case: [] for case in CASES}
    for index in range(rounds):
        for case in CASES:
            # The dense grid needs no average to be far behind.
            if index == 0 or "dense" not in case:
                results[case].append(measure(case, options.quick))
    print("| Task | Ours, s (GiB) | Other, s (GiB) | Ratio |")
    print("| --- | --- | --- | --- |")
    for title, ours, other in (
        (
            f"training step 8 x 512, {BATCH} + {BATCH * 9 // 8} points, beside PyTorch",
            "our_step",
            "torch_step",
        ),
        (
            f"mesh of {PRESET} at {RESOLUTION}^3, beside our dense grid (1/16 timed)",
            "our_sparse_mesh",
            "our_dense_grid",
        ),
        (
            "the same, beside PyTorch on the dense grid (1/16 timed)",
            "our_sparse_mesh",
            "torch_dense_grid",
        ),
    ):
        mine, theirs = (
            {
                key: statistics.median(run[key] for run in results[case])
                for key in ("seconds", "gib")
            }
            for case in (ours, other)
        )
        print(
            f"| {title} | {mine['seconds']:.3g} ({mine['gib']:.2g}) "
            f"| {theirs['seconds']:.3g} ({theirs['gib']:.2g}) "
            f"| {theirs['seconds'] / mine['seconds']:.2f} |"
        )


if __name__ == "__main__":
    main()
