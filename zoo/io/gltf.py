"""Animated shapes as one binary glTF file, which Blender and every glTF viewer play."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from zoo.io import written_whole
from zoo.ops.arguments import positive
from zoo.ops.array_arguments import real_array

MAGIC, VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT = 5126, 5125
VERTICES, INDICES = 34962, 34963  # what a view of the buffer holds
POINTS, TRIANGLES = 0, 4  # modes of a primitive
COLOUR = (0.36, 0.55, 0.74, 1.0)


def write_animation(
    path: str | Path, shapes: np.ndarray, faces: np.ndarray | None = None, seconds: float = 2.0
) -> None:
    """Writes shapes one after the other as an animation by morph targets (glTF 2.0).

    Each shape is a target, as offsets of float32 from the first one, and weights lead linearly from
    one to the next. A node carries the place of the shapes in the world, so that they keep their
    digits far from the origin. The file appears complete or not at all.

    Args:
        path: a .glb file.
        shapes: `[steps + 1, n, 3]` in world units.
        faces: triangles `[m, 3]`, or None for points.
        seconds: from the first to the last shape.

    Raises:
        ValueError: for another suffix, shapes that are no path of points in space, or faces of
            vertices that there are not.
    """
    path = Path(path)
    if path.suffix.lower() != ".glb":
        raise ValueError(f"path must end in .glb, not {path.name!r}.")
    positive("seconds", seconds)
    shapes = real_array("shapes", shapes).astype(np.float64)
    if shapes.ndim != 3 or len(shapes) < 2 or shapes.shape[2] != 3 or not shapes.shape[1]:
        raise ValueError(f"shapes must have the shape [2 or more, n, 3], not {shapes.shape}.")
    place = shapes[0].mean(axis=0)
    parts = _Buffer()
    first = parts.add((shapes[0] - place).astype(np.float32), VERTICES, limits=True)
    primitive = {"attributes": {"POSITION": first}, "material": 0, "mode": POINTS}
    if faces is not None and len(faces):
        faces = np.asarray(faces)
        count = shapes.shape[1]
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.min() < 0 or faces.max() >= count:
            raise ValueError(f"faces must have the shape [m, 3] and number the {count} vertices.")
        primitive |= {
            "indices": parts.add(faces.astype(np.uint32).reshape(-1), INDICES),
            "mode": TRIANGLES,
        }
    primitive["targets"] = [
        {"POSITION": parts.add((shape - shapes[0]).astype(np.float32), VERTICES, limits=True)}
        for shape in shapes[1:]
    ]
    steps = len(shapes) - 1
    times = np.linspace(0.0, seconds, steps + 1, dtype=np.float32)
    # Row k shows shape k alone; the first shape is the one without any target.
    weights = np.eye(steps + 1, steps, k=-1, dtype=np.float32)
    sampler = {
        "input": parts.add(times, limits=True),
        "output": parts.add(weights.reshape(-1)),
        "interpolation": "LINEAR",
    }
    channel = {"sampler": 0, "target": {"node": 0, "path": "weights"}}
    surface = {"baseColorFactor": COLOUR, "metallicFactor": 0.0, "roughnessFactor": 0.8}
    document = {
        "asset": {"version": "2.0", "generator": "deformation-zoo"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "shape", "translation": place.tolist()}],
        "meshes": [{"primitives": [primitive], "weights": [0.0] * steps}],
        "materials": [{"pbrMetallicRoughness": surface, "doubleSided": True}],
        "animations": [{"name": "path", "channels": [channel], "samplers": [sampler]}],
        **parts.described(),
    }
    with written_whole(path) as partial:
        partial.write_bytes(_container(document, bytes(parts.data)))


class _Buffer:
    """The binary part of the file, its views and accessors."""

    def __init__(self):
        self.data, self.views, self.accessors = bytearray(), [], []

    def add(self, array: np.ndarray, target: int | None = None, limits: bool = False) -> int:
        """Appends an array and returns the number of its accessor."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes}
        self.views.append(view if target is None else view | {"target": target})
        self.data += array.tobytes()
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": UNSIGNED_INT if array.dtype == np.uint32 else FLOAT,
            "count": len(array),
            "type": "VEC3" if array.ndim == 2 else "SCALAR",
        }
        if limits:
            accessor |= {
                "min": np.atleast_1d(array.min(axis=0)).tolist(),
                "max": np.atleast_1d(array.max(axis=0)).tolist(),
            }
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def described(self) -> dict:
        """The keys of the document that describe the buffer."""
        return {
            "buffers": [{"byteLength": len(self.data)}],
            "bufferViews": self.views,
            "accessors": self.accessors,
        }


def _container(document: dict, data: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
    chunks += struct.pack("<II", len(data), BINARY_CHUNK) + data
    return struct.pack("<III", MAGIC, VERSION, 12 + len(chunks)) + chunks
