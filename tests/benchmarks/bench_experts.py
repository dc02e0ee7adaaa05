"""Fields of experts beside torch, as a markdown table.

    python tests/benchmarks/bench_experts.py [--quick]

Every measurement runs in a process of its own, ours and torch's in turn, so that peak memory is
that of one method. "peak" is what the process needed beyond its imports and inputs, compilation
included. torch's formulation is the plain one: a convolution, a piecewise linear function with
gathered values, a transposed convolution. Both pad with zeros, have the same weights, and take the
gradients with respect to image, filters and functions; a row is only printed where they agree.

Needs idle cores: torch's threads wait for each other, and one that has to share its core makes a
call of a few milliseconds take hundreds. On a busy machine pin it to one core, `taskset -c 0`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

# It also makes the package of this checkout importable.
from bench_sampling import resident

NODES = 24
CASES = ("plane", "plane, gradients", "space", "space, gradients")
METHODS = ("ours", "torch")


def setting(case: str, quick: bool) -> tuple[tuple[int, ...], int, int]:
    """Shape `[batch, *spatial]` of the images, number of filters, and their taps along an axis."""
    if case.startswith("plane"):
        return (4 if quick else 20, 64, 64), 16, 7
    return (1, *(32 if quick else 64,) * 3), 8, 5


def inputs(shape: tuple[int, ...], filters: int, taps: int) -> tuple[np.ndarray, ...]:
    """Images `[*shape, 1]`, filters `[*taps, 1, filters]`, values `[nodes, filters]`; float32.

    A response has a standard deviation of 0.4, so that about one in eighty lies beyond the nodes.
    """
    generator = np.random.default_rng(0)
    size = (taps,) * (len(shape) - 1)
    kernel = generator.standard_normal((*size, 1, filters), np.float32)
    kernel *= 0.4 / np.sqrt(np.sum(kernel**2, axis=tuple(range(len(size) + 1))))
    image = generator.standard_normal((*shape, 1), np.float32)
    return image, kernel, generator.standard_normal((NODES, filters), np.float32)


def ours(case: str, image: np.ndarray, kernel: np.ndarray, knots: np.ndarray):
    """A function that runs one measurement to its end and gives the first value of each result."""
    import tensorflow as tf

    from zoo.layers.activations import PiecewiseLinear
    from zoo.layers.fields_of_experts import FieldsOfExperts

    layer = FieldsOfExperts(
        kernel.shape[-1], kernel.shape[:-2], PiecewiseLinear(NODES), padding="zero"
    )
    layer.build(image.shape)
    layer.kernel.assign(kernel)
    layer.activation.knots.assign(knots)
    image = tf.constant(image)

    @tf.function(autograph=False)
    def run(image):
        if "gradients" not in case:
            return layer(image)
        with tf.GradientTape() as tape:
            tape.watch(image)
            result = layer(image)
        leaves = [image, layer.kernel.value, layer.activation.knots.value]
        return result, tape.gradient(result, leaves, result)

    def measured():
        results = tf.nest.flatten(run(image))
        return [float(tf.reshape(result, [-1])[0]) for result in results]

    return measured


def torch(case: str, image: np.ndarray, kernel: np.ndarray, knots: np.ndarray):
    """The same in torch."""
    import torch

    rank, filters, border = image.ndim - 2, kernel.shape[-1], kernel.shape[0] // 2
    convolve = getattr(torch.nn.functional, f"conv{rank}d")
    transposed = getattr(torch.nn.functional, f"conv_transpose{rank}d")
    picture = torch.from_numpy(np.moveaxis(image, -1, 1).copy())
    kernel = torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy())
    knots = torch.from_numpy(knots.T.copy())
    rows = NODES * torch.arange(filters).reshape(-1, *(1,) * rank)

    def experts(picture, kernel, knots):
        responses = convolve(picture, kernel, padding=border)
        position = ((responses + 1) * ((NODES - 1) / 2)).clamp(0, NODES - 1)
        cell = position.detach().floor().clamp(max=NODES - 2)
        place, share, values = cell.long() + rows, position - cell, knots.flatten()
        phi = (1 - share) * values[place] + share * values[place + 1]
        return transposed(phi, kernel, padding=border)

    leaves = (picture, kernel, knots)

    def measured():
        if "gradients" not in case:
            with torch.no_grad():
                return [float(experts(*leaves).flatten()[0])]
        for leaf in leaves:
            leaf.grad = None
            leaf.requires_grad_()
        result = experts(*leaves)
        result.backward(result.detach())
        results = (result.detach(), *(leaf.grad for leaf in leaves))
        return [float(tensor.flatten()[0]) for tensor in results]

    return measured


def measure(method: str, case: str, quick: bool, repeats: int) -> dict:
    """Seconds of every repeat, peak memory in MiB of this process, and the first values."""
    function = {"ours": ours, "torch": torch}[method](case, *inputs(*setting(case, quick)))
    before = resident()
    for _ in range(2):
        values = function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "peak": peak / 1024, "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images, few repeats")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repeats, rounds = (3, 1) if arguments.quick else (15, 2)
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, arguments.quick, repeats)))
        return

    print("| experts | ours s | torch s | torch / ours | ours peak MiB | torch peak MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for case in CASES:
        results = {method: [] for method in METHODS}
        for _ in range(rounds):
            for method in METHODS:
                command = [sys.executable, __file__, "--measure", method, case]
                command += ["--quick"] * arguments.quick
                process = subprocess.run(command, capture_output=True, text=True)
                if process.returncode:
                    raise SystemExit(f"{method} failed on {case!r}:\n{process.stderr}")
                results[method].append(json.loads(process.stdout.splitlines()[-1]))
        values = [results[method][0]["values"] for method in METHODS]
        if not np.allclose(*values, rtol=1e-3, atol=1e-4):
            raise SystemExit(f"The results of {case!r} differ: {values[0]} and {values[1]}.")
        seconds = {
            method: statistics.median(second for run in runs for second in run["seconds"])
            for method, runs in results.items()
        }
        peaks = {method: max(run["peak"] for run in runs) for method, runs in results.items()}
        shape, filters, taps = setting(case, arguments.quick)
        size = f"{'x'.join(map(str, shape))}, {filters} of {taps}^{len(shape) - 1}"
        print(
            f"| {case} {size} | {seconds['ours']:.4f} | {seconds['torch']:.4f} "
            f"| {seconds['torch'] / seconds['ours']:.1f} "
            f"| {peaks['ours']:.0f} | {peaks['torch']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
