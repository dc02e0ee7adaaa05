"""The authors' own weight files, read as models of the zoo: PointPWC-Net and IGR.

    model = zoo.checkpoints.read_pointpwc("divroc_ppwc_selftrain_state.pth")
    model = zoo.checkpoints.read_igr("bunny_param_02500.h5")

What is read is numbers alone: PyTorch opens its files with `weights_only=True`, and no class of the
authors is needed or made. `zoo convert FILE --to pointpwc --out DIR` writes such a model as a
preset.

The names of the layers are those of public sources: `models.py` and `pointconv_util.py` of
DylanWusee/PointPWC, which multimodallearning/Lung250M-4B repeats and which DiVRoC's network is an
object of; `code/model/network.py` of amosgropp/IGR; `models.py` of nnabla's reproduction of IGR.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.io import existing, require
from zoo.ops.stored import check_archive, check_weights

if TYPE_CHECKING:
    import keras

    from zoo.models.igr import IGR
    from zoo.models.pointpwc import PointPWC

UNUSED = re.compile(r"\.weightnet[12]?\.mlp_bns\.|\.num_batches_tracked$")
"""Normalisations that PointPWC-Net's perceptrons of offsets hold and never call, and counters."""
HEADS = tuple(f"flow{level}.pointconv_list.{k}" for level in range(4) for k in range(2))
"""Convolutions of the flow heads, which alone may have a normalisation that is called."""
NORM = ("weight", "bias", "running_mean", "running_var")
NORM_EPSILON = 1e-5  # of PyTorch's batch normalisation
PACKED = 20  # times that an archive may grow; PyTorch packs nothing
SHOWN = 4  # keys of each kind that an error lists

AS_OBJECT = """path: {name!r} pickles a whole object, which would run code of its author.
Where that code is installed and trusted, these lines keep its weights (without [0] if it is alone):
import torch; network = torch.load({name!r}, map_location="cpu", weights_only=False)[0]
torch.save(network.state_dict(), {state!r})"""


def read_pointpwc(path: str | Path, **config) -> PointPWC:
    """A PointPWC-Net with the weights of a PyTorch state dict.

    Batch normalisations of the flow heads tell what the file is. With them, as PointPWC's release
    has them, its points begin with their coordinates, and the normalisations become part of the
    dense layers before them, as they act when nothing is trained. Without them it is taken for
    DiVRoC's `divroc_ppwc_selftrain.pth`, whose points begin with ones and whose flow ends in tanh;
    the weights of another network without them say nothing of that, so `features="coordinates",
    output="linear"` has to.

    Either one works in the coordinates that its authors normalised (frame "none") and moves the
    cloud that they give it first, which DiVRoC calls the fixed one.

    Args:
        path: of the `.pth` file.
        **config: arguments of `zoo.models.pointpwc.PointPWC` in place of the published ones.

    Returns:
        The model, compiled.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without PyTorch, with the command that installs it.
        ValueError: for what is no state dict, a pickled object, keys that are missing or too many,
            other shapes, and values that are not finite.
    """
    from zoo.models.pointpwc import AUTHORS, PAPER, PointPWC

    path = existing(path)
    arrays = {key: each for key, each in _state_dict(path).items() if not UNUSED.search(key)}
    normalised = any(".bn_linear." in key for key in arrays)
    heads = HEADS if normalised else ()
    release = PAPER | {"features": "coordinates", "frame": "none"}
    model = PointPWC(**(release if normalised else AUTHORS) | config)
    layers = _layers_of_pointpwc(model.network)
    norms = {
        f"{head}.bn_linear.{part}": layers[f"{head}.linear"].bias.shape
        for head in heads
        for part in NORM
    }
    _check(path, arrays, _shapes(layers, ".weight", ".bias") | norms)
    for head in heads:
        scale, shift, mean, variance = (arrays[f"{head}.bn_linear.{part}"] for part in NORM)
        scale = scale / np.sqrt(variance + NORM_EPSILON)
        arrays[f"{head}.linear.weight"] = arrays[f"{head}.linear.weight"] * scale[:, None]
        arrays[f"{head}.linear.bias"] = (arrays[f"{head}.linear.bias"] - mean) * scale + shift
    for name, layer in layers.items():
        layer.kernel.assign(arrays[f"{name}.weight"].T)
        layer.bias.assign(arrays[f"{name}.bias"])
    if model.taught is not None:
        model.taught.set_weights(model.network.get_weights())
    model.compile()
    return model


def read_igr(path: str | Path, **config) -> IGR:
    """A signed distance with the weights of IGR's authors, or of nnabla's reproduction.

    Width, depth, skips and dimension are those of the arrays. A `.pth` file of the authors is
    their softplus of sharpness 100; an `.h5` file of nnabla's parameters has its leaky rectifier
    and joins the coordinates without a factor, before the hidden features: the rows of its kernel
    are reordered. What a file does not tell, such as another `beta` or `activation`, `config` does.

    The model lives in the coordinates that the network was trained in: nnabla's are those in which
    the longest side of the scan is [-1, 1] (`zoo.Scan.frame`), the authors' those of their file.
    nnabla's distances may be positive inside, as nothing in its training chooses a sign.

    Args:
        path: of the `.pth` or `.h5` file.
        **config: arguments of `zoo.models.igr.IGR` in place of those.

    Returns:
        The model, compiled.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: for a `.pth` file without PyTorch, with the command that installs it.
        ValueError: for what is no such file, a network with a latent code, keys that are missing
            or too many, other shapes, and values that are not finite.
    """
    import h5py

    from zoo.models.igr import AUTHORS, IGR, NNABLA

    path = existing(path)
    nnabla = h5py.is_hdf5(path)
    if path.suffix.lower() in (".h5", ".hdf5") and not nnabla:
        raise ValueError(f"path: {path.name!r} is no HDF5 file.")
    arrays = _parameters(path) if nnabla else _state_dict(path)
    called, *parts = ("fc{}", "/affine/W", "/affine/b") if nnabla else ("lin{}", ".weight", ".bias")
    kernels = []
    while (key := called.format(len(kernels)) + parts[0]) in arrays and arrays[key].ndim == 2:
        kernels.append(arrays[key] if nnabla else arrays[key].T)
    if len(kernels) < 2:
        wanted = [called.format(number) + part for number in range(2) for part in parts]
        raise ValueError(
            f"path: {path.name!r} is none of IGR's: it has to hold matrices and vectors "
            f"{', '.join(wanted)} ..., not {_listed(arrays) or 'nothing'}."
        )
    dims = len(kernels[0])
    if dims not in (2, 3):
        raise ValueError(
            f"path: the network of {path.name!r} takes {dims} numbers, not 2 or 3 coordinates; "
            "a latent code of a space of shapes cannot be read."
        )
    depth = len(kernels) - 1
    found = {
        "dims": dims,
        "width": len(kernels[1]),
        "depth": depth,
        # Where a layer takes more than the one before it gives, the coordinates are joined.
        "skips": tuple(
            layer
            for layer in range(1, depth + 1)
            if len(kernels[layer]) != kernels[layer - 1].shape[1]
        ),
    }
    model = IGR(**(NNABLA if nnabla else AUTHORS) | found | config)
    layers = {called.format(k): layer for k, layer in enumerate(model.network.linear)}
    _check(path, arrays, _shapes(layers, *parts, outputs_first=not nnabla))
    for number, layer in enumerate(layers.values()):
        kernel = kernels[number]
        if nnabla and number in model.network.skips:
            kernel = np.roll(kernel, -dims, axis=0)
        layer.kernel.assign(kernel)
        layer.bias.assign(arrays[called.format(number) + parts[1]])
    model.compile()
    return model


READERS = {"igr": read_igr, "pointpwc": read_pointpwc}


def _layers_of_pointpwc(network) -> dict[str, keras.layers.Dense]:
    """The dense layers of a `PointPWCNet` by the names that they have in the authors' code."""
    layers = dict(zip(("level0", "level0_1"), network.start, strict=True))
    layers["level0_2"] = network.feeds[0][0]
    for level in range(1, 4):
        for number, layer in enumerate(network.feeds[level]):
            layers[f"level{level}_{number}"] = layer
    for level, layer in enumerate(network.contexts):
        layers[f"deconv{level + 1}_{level}"] = layer
    layers = {f"{name}.composed_module.0": layer for name, layer in layers.items()}
    for level in range(4):
        layers |= _layers_of_convolution(f"level{level + 1}", network.downs[level])
        cost, head = network.costs[level], network.heads[level]
        layers |= _numbered(f"cost{level}.mlp_convs.{{}}", cost.compare)
        layers |= _numbered(f"cost{level}.weightnet1.mlp_convs.{{}}", cost.across.steps)
        layers |= _numbered(f"cost{level}.weightnet2.mlp_convs.{{}}", cost.within.steps)
        for number, convolution in enumerate(head.convs):
            layers |= _layers_of_convolution(f"flow{level}.pointconv_list.{number}", convolution)
        layers |= _numbered(f"flow{level}.mlp_convs.{{}}.composed_module.0", head.units)
        layers[f"flow{level}.fc"] = head.last
    return layers


def _layers_of_convolution(name: str, convolution) -> dict[str, keras.layers.Dense]:
    weights = _numbered(f"{name}.weightnet.mlp_convs.{{}}", convolution.weight_net.steps)
    return weights | {f"{name}.linear": convolution.linear}


def _numbered(name: str, layers) -> dict[str, keras.layers.Dense]:
    return {name.format(number): layer for number, layer in enumerate(layers)}


def _shapes(layers: Mapping, kernel: str, bias: str, outputs_first: bool = True) -> dict:
    """The shapes of the arrays that layers want, by key: a layer's name and one of two endings."""
    wanted = {}
    for name, layer in layers.items():
        shape = tuple(layer.kernel.shape)
        wanted[name + kernel] = shape[::-1] if outputs_first else shape
        wanted[name + bias] = tuple(layer.bias.shape)
    return wanted


def _check(path: Path, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple]) -> None:
    """Checks that arrays are those that are wanted, of these shapes and finite.

    Raises:
        ValueError: if not; the message lists the keys that are at fault.
    """
    shared = [key for key in wanted if key in arrays]
    shapes = [
        f"{key} {arrays[key].shape}, expected {tuple(wanted[key])}"
        for key in shared
        if arrays[key].shape != tuple(wanted[key])
    ]
    problems = {
        "missing": [key for key in wanted if key not in arrays],
        "unexpected": [key for key in arrays if key not in wanted],
        "of another shape": shapes,
        "not finite": [key for key in shared if not np.isfinite(arrays[key]).all()],
    }
    texts = [f"{what}: {_listed(keys)}" for what, keys in problems.items() if keys]
    if texts:
        raise ValueError(f"path: the weights of {path.name!r} do not fit; {'; '.join(texts)}.")


def _listed(keys) -> str:
    keys = list(keys)
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch state dict by key, float32; kernels of size one are matrices.

    Raises:
        ImportError: without PyTorch.
        ValueError: for any other file; for a pickled object with the lines that convert it.
    """
    torch = require("torch", "torch", f"reading {path.name!r}")
    if zipfile.is_zipfile(path):
        check_archive(path, PACKED * path.stat().st_size)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            state = f"{path.stem}_state.pth"
            raise ValueError(AS_OBJECT.format(name=path.name, state=state)) from error
        raise ValueError(f"path: {path.name!r} is no PyTorch file.") from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise ValueError(f"path: {path.name!r} is no PyTorch file: {reason}.") from error
    for container in ("model_state_dict", "state_dict"):
        if isinstance(stored, dict) and isinstance(stored.get(container), dict):
            stored = stored[container]
    if not isinstance(stored, dict) or not all(isinstance(key, str) for key in stored):
        raise ValueError(
            f"path: {path.name!r} holds no state dict, which is a dict of tensors by name, but a "
            f"{type(stored).__name__}."
        )
    others = [key for key, each in stored.items() if not isinstance(each, torch.Tensor)]
    if others:
        raise ValueError(f"path: {path.name!r} holds what is no tensor: {_listed(others)}.")
    # Of a network that was trained on several devices.
    wrapped = all(key.startswith("module.") for key in stored)
    return {
        key.removeprefix("module.") if wrapped else key: _matrix(tensor.detach().float().numpy())
        for key, tensor in stored.items()
    }


def _matrix(array: np.ndarray) -> np.ndarray:
    """`[out, in]` of a convolution over single places, `[out, in, 1, ...]`; others as they are."""
    return array.reshape(array.shape[:2]) if set(array.shape[2:]) == {1} else array


def _parameters(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.h5` file by their paths, float32.

    Raises:
        ValueError: for links, arrays of other types or that lie elsewhere, and what is not finite.
    """
    import h5py

    arrays = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()].astype(np.float32)

    try:
        check_weights(path, {"float32", "float64"})
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except OSError as error:
        raise ValueError(f"path: {path.name!r} cannot be read: {error}.") from error
    except ValueError as error:
        raise ValueError(f"path: {error}") from error
    return arrays
