"""The animated glTF is read back by a public reader, and by trimesh."""

import numpy as np
import pytest
import trimesh

from zoo.io.gltf import write_animation

pygltflib = pytest.importorskip("pygltflib")


def path_of(offset=0.0):
    mesh = trimesh.creation.icosphere(subdivisions=1)
    shapes = np.stack([mesh.vertices * (1 + 0.2 * k) for k in range(4)]) + offset
    return shapes, mesh.faces


def values(document, index) -> np.ndarray:
    accessor = document.accessors[index]
    view = document.bufferViews[accessor.bufferView]
    kind = {pygltflib.FLOAT: np.float32, pygltflib.UNSIGNED_INT: np.uint32}[accessor.componentType]
    blob = document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    return np.frombuffer(blob, kind).reshape(accessor.count, -1)


def test_shapes_come_back(tmp_path):
    shapes, faces = path_of()
    write_animation(tmp_path / "path.glb", shapes, faces, seconds=3.0)
    document = pygltflib.GLTF2().load(str(tmp_path / "path.glb"))
    place = np.array(document.nodes[0].translation)
    primitive = document.meshes[0].primitives[0]
    first = values(document, primitive.attributes.POSITION)
    np.testing.assert_allclose(first + place, shapes[0], atol=1e-6)
    assert np.array_equal(values(document, primitive.indices).reshape(-1, 3), faces)
    sampler = document.animations[0].samplers[0]
    times, weights = values(document, sampler.input), values(document, sampler.output)
    np.testing.assert_allclose(times[:, 0], [0, 1, 2, 3])
    weights = weights.reshape(4, 3)
    targets = [values(document, target["POSITION"]) for target in primitive.targets]
    for row, shape in zip(weights, shapes, strict=True):
        blended = first + sum(w * target for w, target in zip(row, targets, strict=True))
        np.testing.assert_allclose(blended + place, shape, atol=1e-6)
    for accessor, view in ((a, document.bufferViews[a.bufferView]) for a in document.accessors):
        assert view.byteOffset % 4 == 0 and view.byteLength == accessor.count * (
            4 * (3 if accessor.type == "VEC3" else 1)
        )


def test_trimesh_reads_the_first_shape(tmp_path):
    shapes, faces = path_of()
    write_animation(tmp_path / "path.glb", shapes, faces)
    mesh = trimesh.load(tmp_path / "path.glb", process=False).to_geometry()
    np.testing.assert_allclose(mesh.vertices, shapes[0], atol=1e-6)
    assert np.array_equal(mesh.faces, faces)


def test_digits_survive_far_from_the_origin(tmp_path):
    shapes, faces = path_of(offset=5e6)
    write_animation(tmp_path / "path.glb", shapes, faces)
    document = pygltflib.GLTF2().load(str(tmp_path / "path.glb"))
    first = values(document, document.meshes[0].primitives[0].attributes.POSITION)
    np.testing.assert_allclose(
        first + np.array(document.nodes[0].translation), shapes[0], atol=1e-6
    )


def test_a_bare_cloud_is_drawn_as_points(tmp_path):
    shapes, _ = path_of()
    write_animation(tmp_path / "path.glb", shapes)
    document = pygltflib.GLTF2().load(str(tmp_path / "path.glb"))
    assert document.meshes[0].primitives[0].mode == 0


@pytest.mark.parametrize(
    ("name", "shapes", "faces", "words"),
    [
        ("path.gltf", np.zeros((2, 3, 3)), None, "must end in .glb"),
        ("path.glb", np.zeros((1, 3, 3)), None, "2 or more"),
        ("path.glb", np.zeros((2, 3, 2)), None, "shape"),
        ("path.glb", np.full((2, 3, 3), np.nan), None, "finite"),
        ("path.glb", np.zeros((2, 3, 3)), [[0, 1, 3]], "number the 3 vertices"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, name, shapes, faces, words):
    with pytest.raises(ValueError, match=words):
        write_animation(tmp_path / name, shapes, faces)
    assert not list(tmp_path.iterdir())
