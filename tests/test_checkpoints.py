"""The authors' files: random weights under the published names, beside a plain evaluation."""

import sys

import h5py
import numpy as np
import pytest

from zoo import checkpoints
from zoo.checkpoints import read_igr, read_pointpwc

# Channels of the published PointPWC-Net: of the levels, of what feeds the next one, of what the
# coarser level adds to a level, and of the flow heads.
OWN, FEEDING, CONTEXT = (32, 64, 128, 256, 256), (64, 128, 256, 512), (32, 32, 64, 64)
HEAD = (128, 128, 128, 64)


# PointPWC-Net, written anew: functions of arrays `[n, channels]`


def published_shapes(normalised: bool) -> dict[str, tuple[int, ...]]:
    """Every key of a state dict and its shape."""
    shapes = {}

    def layer(name, entering, leaving, ones=0):
        shapes[f"{name}.weight"] = (leaving, entering, *[1] * ones)
        shapes[f"{name}.bias"] = (leaving,)

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def weight_net(name, leaving):
        for number, pair in enumerate([(3, 8), (8, 8), (8, leaving)]):
            layer(f"{name}.mlp_convs.{number}", *pair, ones=2)
            norm(f"{name}.mlp_bns.{number}", pair[1])

    def convolution(name, entering, leaving):
        weight_net(f"{name}.weightnet", 16)
        layer(f"{name}.linear", 16 * (entering + 3), leaving)

    units = {"level0": (3, 32), "level0_1": (32, 32), "level0_2": (32, 64)}
    for level in (1, 2, 3):
        units |= {
            f"level{level}_0": (OWN[level], OWN[level]),
            f"level{level}_1": (OWN[level], FEEDING[level]),
        }
    for level in range(4):
        units[f"deconv{level + 1}_{level}"] = OWN[level + 1], CONTEXT[level]
        convolution(f"level{level + 1}", FEEDING[level], OWN[level + 1])
        width, seen = OWN[level], OWN[level] + CONTEXT[level]
        layer(f"cost{level}.mlp_convs.0", 2 * seen + 3, width, ones=2)
        layer(f"cost{level}.mlp_convs.1", width, width, ones=2)
        weight_net(f"cost{level}.weightnet1", width)
        weight_net(f"cost{level}.weightnet2", width)
        entering = 2 * width + (0 if level == 3 else HEAD[3] + 3)
        for number in range(2):
            name = f"flow{level}.pointconv_list.{number}"
            convolution(name, entering if number == 0 else HEAD[0], HEAD[number])
            if normalised:
                norm(f"{name}.bn_linear", HEAD[number])
            units[f"flow{level}.mlp_convs.{number}"] = HEAD[number + 1], HEAD[number + 2]
        layer(f"flow{level}.fc", HEAD[3], 3, ones=1)
    for name, pair in units.items():
        layer(f"{name}.composed_module.0", *pair, ones=1)
    return shapes


def random_weights(normalised: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weights = {}
    for key, shape in published_shapes(normalised).items():
        values = random.normal(size=shape)
        if key.endswith(".running_var"):
            values = random.uniform(0.5, 2.0, shape)
        elif len(shape) > 1:
            # What is summed over neighbours neither grows nor fades from layer to layer.
            small = 0.4 if "weightnet" in key else 1.0
            values = small * values * np.sqrt(2.0 / shape[1])
        else:
            values = 0.1 * values + (".bn_linear.weight" in key)
        weights[key] = np.float32(values)
    return weights


def dense(weights, name, x):
    kernel = weights[f"{name}.weight"]
    return x @ kernel.reshape(kernel.shape[:2]).T.astype(np.float64) + weights[f"{name}.bias"]


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def unit(weights, name, x):
    return leaky(dense(weights, f"{name}.composed_module.0", x))


def weight_net(weights, name, offsets):
    for number in range(3):
        offsets = np.maximum(dense(weights, f"{name}.mlp_convs.{number}", offsets), 0)
    return offsets


def nearest(queries, points, k):
    squared = ((queries[:, None] - points) ** 2).sum(axis=-1)
    return np.argsort(squared, axis=1)[:, :k]


def farthest(points, count):
    chosen, squared = [0], np.full(len(points), np.inf)
    while len(chosen) < count:
        squared = np.minimum(squared, ((points - points[chosen[-1]]) ** 2).sum(axis=-1))
        chosen.append(int(squared.argmax()))
    return chosen


def point_conv(weights, name, centres, points, features, k):
    index = nearest(centres, points, k)
    offsets = points[index] - centres[:, None]
    vectors = np.concatenate([offsets, features[index]], axis=-1)
    summed = np.zeros((len(centres), vectors.shape[-1], 16))
    for j, each in enumerate(np.moveaxis(weight_net(weights, f"{name}.weightnet", offsets), 1, 0)):
        summed += vectors[:, j, :, None] * each[:, None, :]
    x = dense(weights, f"{name}.linear", summed.reshape(len(centres), -1))
    if f"{name}.bn_linear.weight" in weights:
        scale, shift, mean, variance = (
            weights[f"{name}.bn_linear.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-5) * scale + shift
    return leaky(x)


def cost_volume(weights, name, points, features, others, other_features):
    index = nearest(points, others, 32)
    offsets = others[index] - points[:, None]
    own = np.repeat(features[:, None], index.shape[1], axis=1)
    x = np.concatenate([own, other_features[index], offsets], axis=-1)
    for number in range(2):
        x = leaky(dense(weights, f"{name}.mlp_convs.{number}", x))
    cost = (weight_net(weights, f"{name}.weightnet1", offsets) * x).sum(axis=1)
    index = nearest(points, points, 32)
    offsets = points[index] - points[:, None]
    return (weight_net(weights, f"{name}.weightnet2", offsets) * cost[index]).sum(axis=1)


def raised(fine, coarse, values):
    index = nearest(fine, coarse, 3)
    distances = np.linalg.norm(coarse[index] - fine[:, None], axis=-1).clip(1e-10)
    shares = 1 / distances / (1 / distances).sum(axis=1, keepdims=True)
    return (shares[..., None] * values[index]).sum(axis=1)


def flow_head(weights, name, points, x):
    for number in range(2):
        x = point_conv(weights, f"{name}.pointconv_list.{number}", points, points, x, 9)
    for number in range(2):
        x = unit(weights, f"{name}.mlp_convs.{number}", x)
    return dense(weights, f"{name}.fc", x).clip(-200, 200), x


def encoded(weights, points, x):
    """Points and features of the five levels, and what the cost volumes see on four."""
    x = unit(weights, "level0_1", unit(weights, "level0", x))
    levels = [(points, x)]
    for level in range(4):
        for name in ("level0_2",) if level == 0 else (f"level{level}_0", f"level{level}_1"):
            x = unit(weights, name, x)
        centres = points[farthest(points, len(points) // (4, 4, 2, 4)[level])]
        x = point_conv(weights, f"level{level + 1}", centres, points, x, 16)
        points = centres
        levels.append((points, x))
    seen = []
    for level, (here, below) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        added = unit(weights, f"deconv{level + 1}_{level}", raised(here[0], *below))
        seen.append(np.concatenate([here[1], added], axis=-1))
    return levels, seen


def published_flow(weights, first, second, coordinates: bool):
    """The finest flow, from the first cloud to the second."""
    clouds = [
        encoded(weights, cloud, cloud if coordinates else np.ones_like(cloud))
        for cloud in (first.astype(np.float64), second.astype(np.float64))
    ]
    flow = hidden = None
    for level in (3, 2, 1, 0):
        (levels, seen), (other_levels, other_seen) = clouds
        points, x = levels[level]
        others = other_levels[level][0]
        if flow is not None:
            flow, hidden = (raised(points, levels[level + 1][0], each) for each in (flow, hidden))
            others = others - raised(others, points + flow, flow)
        cost = cost_volume(weights, f"cost{level}", points, seen[level], others, other_seen[level])
        entering = [x, cost] if flow is None else [x, hidden, cost, flow]
        flow, hidden = flow_head(weights, f"flow{level}", points, np.concatenate(entering, axis=-1))
    return flow


@pytest.fixture
def state(monkeypatch, tmp_path):
    """Has a file stand for arrays, as PyTorch would read it; returns its path."""

    def write(arrays):
        path = tmp_path / "state.pth"
        path.touch()
        plain = {key: checkpoints._matrix(each) for key, each in arrays.items()}
        monkeypatch.setattr(checkpoints, "_state_dict", lambda path: plain)
        return path

    return write


@pytest.mark.parametrize("normalised", [False, True])
def test_pointpwc_computes_what_its_authors_network_does(state, normalised):
    random = np.random.default_rng(1)
    first = random.uniform(-1.5, 1.5, (256, 3)).astype(np.float32)
    second = (first[::-1] * 1.1 + 0.1 * np.sin(2 * first[::-1, ::-1])).astype(np.float32)
    weights = random_weights(normalised)
    wanted = published_flow(weights, first, second, coordinates=normalised)
    assert wanted.std(axis=0).min() > 0.03 and np.abs(wanted).max() < 4  # awake, not cut off
    model = read_pointpwc(state(weights))
    config = model.get_config()
    assert config["features"] == ("coordinates" if normalised else "ones")
    assert config["output"] == ("linear" if normalised else "tanh") and config["frame"] == "none"
    wanted = wanted if normalised else np.tanh(wanted)
    found = model.predict({"moving": first[None], "fixed": second[None]}, verbose=0)["moved"]
    np.testing.assert_allclose(found[0] - first, wanted, atol=1e-4)


def test_what_a_file_does_not_tell_is_said(state):
    path = state(random_weights(False))
    config = read_pointpwc(path, features="coordinates", output="linear", teacher=0.9).get_config()
    assert config["features"] == "coordinates" and config["output"] == "linear"
    model = read_pointpwc(path, teacher=0.9)
    for slow, fast in zip(model.taught.weights, model.network.weights, strict=True):
        np.testing.assert_array_equal(slow, fast)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("level1.linear.weight"), r"missing: level1\.linear\.weight\.$"),
        (lambda w: w.update({"level5.weight": np.ones(3)}), r"unexpected: level5\.weight\.$"),
        (
            lambda w: w.update({"flow0.fc.weight": np.ones((3, 65, 1))}),
            r"of another shape: flow0\.fc\.weight \(3, 65\), expected \(3, 64\)",
        ),
        (lambda w: w["flow0.fc.bias"].fill(np.nan), r"not finite: flow0\.fc\.bias"),
        (lambda w: w.clear(), r"missing: level0\.composed_module\.0\.weight, .* more\.$"),
        (
            lambda w: w.pop("flow2.pointconv_list.1.bn_linear.running_var"),
            r"missing: flow2\.pointconv_list\.1\.bn_linear\.running_var\.$",
        ),
    ],
)
def test_state_dicts_of_something_else(state, change, words):
    weights = random_weights(True)
    change(weights)
    with pytest.raises(ValueError, match=words) as caught:
        read_pointpwc(state(weights))
    assert str(caught.value).startswith("path: the weights of 'state.pth' do not fit; ")


# IGR, written anew


def igr_weights(sizes, nnabla: bool) -> dict[str, np.ndarray]:
    """Random arrays of layers that take and give so many numbers."""
    random, arrays = np.random.default_rng(2), {}
    for number, (entering, leaving) in enumerate(sizes):
        kernel = random.normal(size=(entering, leaving)) * np.sqrt(2 / entering)
        bias = 0.1 * random.normal(size=leaving)
        if nnabla:
            named = {f"fc{number}/affine/W": kernel, f"fc{number}/affine/b": bias}
        else:
            named = {f"lin{number}.weight": kernel.T, f"lin{number}.bias": bias}
        arrays |= {key: np.float32(each) for key, each in named.items()}
    return arrays


def authors_distance(arrays, points, skip):
    x = points
    for number in range(len(arrays) // 2):
        if number == skip:
            x = np.concatenate([x, points], axis=1) / np.sqrt(2)
        x = x @ arrays[f"lin{number}.weight"].T.astype(np.float64) + arrays[f"lin{number}.bias"]
        if number < len(arrays) // 2 - 1:
            x = np.logaddexp(0, 100 * x) / 100
    return x


def nnabla_distance(arrays, points, skip):
    x = points
    for number in range(len(arrays) // 2):
        if number == skip:
            x = np.concatenate([points, x], axis=1)
        x = x @ arrays[f"fc{number}/affine/W"].astype(np.float64) + arrays[f"fc{number}/affine/b"]
        if number < len(arrays) // 2 - 1:
            x = leaky(x)
    return x


def parameters(path, arrays):
    """A file as nnabla writes it."""
    with h5py.File(path, "w") as file:
        for number, (key, each) in enumerate(arrays.items()):
            file[key] = each
            file[key].attrs["need_grad"] = True
            file[key].attrs["index"] = number
    return path


NNABLA = [(3, 512), (512, 512), (512, 512), (512, 509), *[(512, 512)] * 3, (512, 1)]
AUTHORS = [(3, 512), (512, 512), (512, 512), (512, 509), *[(512, 512)] * 4, (512, 1)]
PLANAR = [(2, 24), (24, 22), (24, 24), (24, 1)]
PLAIN = [(3, 16), (16, 16), (16, 1)]


@pytest.mark.parametrize(("sizes", "skip"), [(AUTHORS, 4), (PLANAR, 2), (PLAIN, None)])
def test_igr_of_its_authors(state, sizes, skip):
    arrays = igr_weights(sizes, nnabla=False)
    points = np.random.default_rng(3).uniform(-1, 1, (200, sizes[0][0]))
    model = read_igr(state(arrays))
    wanted = authors_distance(arrays, points, skip)
    np.testing.assert_allclose(model.predict(points), wanted, atol=1e-4 * np.abs(wanted).max())
    config = model.get_config()
    assert tuple(config["skips"]) == (() if skip is None else (skip,))
    assert (config["activation"], config["scale_skips"]) == ("softplus", True)
    if sizes is AUTHORS:
        assert model.count_params() == 1_839_614


@pytest.mark.parametrize(("sizes", "skip"), [(NNABLA, 4), (PLANAR, 2)])
def test_igr_of_nnabla(tmp_path, sizes, skip):
    arrays = igr_weights(sizes, nnabla=True)
    points = np.random.default_rng(4).uniform(-1, 1, (200, sizes[0][0]))
    model = read_igr(parameters(tmp_path / "param.h5", arrays))
    wanted = nnabla_distance(arrays, points, skip)
    np.testing.assert_allclose(model.predict(points), wanted, atol=1e-4 * np.abs(wanted).max())
    if sizes is NNABLA:
        assert model.count_params() == 1_576_958


def test_another_sharpness_is_said(state):
    path = state(igr_weights(PLAIN, nnabla=False))
    assert read_igr(path, beta=50.0).get_config()["beta"] == 50


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([], "is none of IGR's: .* not nothing"),
        (PLAIN[:1], "is none of IGR's"),
        ([(259, 512), *AUTHORS[1:]], "takes 259 numbers, not 2 or 3"),
        ([*PLAIN[:2], (16, 2)], r"of another shape: .* expected .*1"),
    ],
)
@pytest.mark.parametrize("nnabla", [False, True])
def test_igr_of_something_else(state, tmp_path, sizes, words, nnabla):
    arrays = igr_weights(sizes, nnabla)
    path = parameters(tmp_path / "param.h5", arrays) if nnabla else state(arrays)
    with pytest.raises(ValueError, match=words):
        read_igr(path)


def test_igr_with_a_key_too_many_or_too_few(tmp_path):
    arrays = igr_weights(PLAIN, nnabla=True)
    lacking = {key: each for key, each in arrays.items() if key != "fc1/affine/b"}
    with pytest.raises(ValueError, match="missing: fc1/affine/b"):
        read_igr(parameters(tmp_path / "lacking.h5", lacking))
    arrays["fc3/conv/W"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="unexpected: fc3/conv/W"):
        read_igr(parameters(tmp_path / "more.h5", arrays))


def test_h5_files_of_something_else(tmp_path):
    with h5py.File(tmp_path / "words.h5", "w") as file:
        file["words"] = "none"
    with pytest.raises(ValueError, match="path: words.h5/words is of object"):
        read_igr(tmp_path / "words.h5")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["fc0"] = h5py.ExternalLink("words.h5", "/words")
    with pytest.raises(ValueError, match="path: link.h5.*is a link"):
        read_igr(tmp_path / "link.h5")
    (tmp_path / "text.h5").write_text("none")
    with pytest.raises(ValueError, match="path: 'text.h5' is no HDF5 file"):
        read_igr(tmp_path / "text.h5")
    with pytest.raises(FileNotFoundError, match="path: no file"):
        read_igr(tmp_path / "absent.h5")


def test_without_torch_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "state.pth").touch()
    with pytest.raises(ImportError, match="pip install torch"):
        read_pointpwc(tmp_path / "state.pth")


# PyTorch's files themselves


class Network:
    """Stands for a network whose class has to be there when it is unpickled."""

    def state_dict(self):
        import torch

        arrays = igr_weights(PLAIN, nnabla=False)
        return {key: torch.from_numpy(np.array(each)) for key, each in arrays.items()}


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_pytorch(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    tensors = {f"module.{key}": torch.tensor(each) for key, each in random_weights(True).items()}
    torch.save(tensors, tmp_path / "pwc.pth", _use_new_zipfile_serialization=zipped)
    kernel = read_pointpwc(tmp_path / "pwc.pth").network.start[0].kernel
    wanted = tensors["module.level0.composed_module.0.weight"][:, :, 0].T
    np.testing.assert_array_equal(kernel, wanted)
    saved = {"epoch": 7, "model_state_dict": Network().state_dict()}
    torch.save(saved, tmp_path / "igr.pth", _use_new_zipfile_serialization=zipped)
    assert read_igr(tmp_path / "igr.pth").get_config()["width"] == 16


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_are_refused_with_the_lines_that_convert_them(tmp_path, monkeypatch, zipped):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save((Network(), np.ones(3)), "whole.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="pickles a whole object") as caught:
        read_igr("whole.pth")
    exec("\n".join(str(caught.value).splitlines()[-2:]))
    assert read_igr("whole_state.pth").get_config()["width"] == 16


@pytest.mark.parametrize("read", [read_igr, read_pointpwc])
def test_what_pytorch_cannot_read_or_is_no_state_dict(tmp_path, read):
    torch = pytest.importorskip("torch")
    path = tmp_path / "some.pth"
    for content in (b"", b"no checkpoint", b"PK\x03\x04 no archive", b"\x80\x02}q\x00."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path: 'some.pth' "):
            read(path)
    for stored, words in (
        ([torch.ones(3)], "holds no state dict"),
        ({3: torch.ones(3)}, "holds no state dict"),
        ({"lin0.weight": 1.0}, "no tensor: lin0.weight"),
        ({}, "missing|none of IGR's"),
    ):
        torch.save(stored, path)
        with pytest.raises(ValueError, match=words):
            read(path)
