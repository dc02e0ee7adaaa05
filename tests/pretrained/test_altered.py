"""Presets that were altered, or made to harm: none of them loads."""

import copy
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import pretrained
import zoo
from zoo.cli import main

KNOT = Path(pretrained.__file__).parent / "igr" / "knot"
SEED, SAMPLES = 13, 60


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A small preset with all files that one may have."""
    folder = tmp_path_factory.mktemp("presets") / "small"
    model = zoo.create("igr", width=8, depth=2, skips=(), neighbours=5)
    files = {name: KNOT / name for name in ("train.py", "preview.png")}
    facts = {"summary": "Small.", "training": {"data": "none", "seed": 0}, "files": files}
    return model.save_preset(folder, **facts)


@pytest.fixture
def altered(preset, tmp_path):
    """A copy of it to alter."""
    return Path(shutil.copytree(preset, tmp_path / "small"))


def loads(folder):
    try:
        zoo.load(folder)
    except (pretrained.ManifestError, pretrained.IntegrityError, FileNotFoundError, LookupError):
        return False
    return True


def signed(folder, **changes):
    """Writes a changed manifest with the hash that it has to have, as somebody malicious would."""
    manifest = json.loads((folder / "preset.json").read_text())
    del manifest["sha256"]
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = manifest
        for key in outer:
            place = place[key]
        place[last] = value
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "preset.json").write_text(text)


def arrays(file):
    """The names of all arrays of a weight file."""
    names = []
    file.visit(names.append)
    return [name for name in names if isinstance(file[name], h5py.Dataset)]


def paths(value, path=()):
    """The keys of all values within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        yield (*path, key)
        if isinstance(each, dict | list):
            yield from paths(each, (*path, key))


def others(value):
    """Values of the same and of other types."""
    yield from (None, True, 1.5, 7, "other", [], {}, 10**6)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, -value - 1, str(value))
    elif isinstance(value, str):
        yield from (value + " ", value[:-1], value.upper() + "x")
    elif isinstance(value, list):
        yield [*value, 1]
    elif isinstance(value, dict):
        yield {**value, "more": 1}


def test_no_alteration_of_any_key_loads(preset, altered):
    assert loads(preset)
    original = json.loads((preset / "preset.json").read_text())
    tried = 0
    for path in paths(original):
        for change in ("delete", *others(place_of(original, path)[path[-1]])):
            manifest = copy.deepcopy(original)
            place = place_of(manifest, path)
            if change == "delete":
                del place[path[-1]]
            else:
                place[path[-1]] = change
            if manifest == original and repr(manifest) == repr(original):
                continue
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            (altered / "preset.json").write_text(text)
            assert not loads(altered), (path, change)
            tried += 1
    assert tried > 500


def place_of(manifest, path):
    for key in path[:-1]:
        manifest = manifest[key]
    return manifest


def test_no_flipped_bit_of_the_manifest_loads(preset, altered):
    data = (preset / "preset.json").read_bytes()
    for bit in random.Random(SEED).sample(range(8 * len(data)), 8 * SAMPLES):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (altered / "preset.json").write_bytes(flipped)
        assert not loads(altered), (bit, data[bit // 8 - 20 : bit // 8 + 20])


@pytest.mark.parametrize(
    "name", ["model.weights.h5", "golden.npz", "card.md", "preview.png", "train.py"]
)
def test_no_altered_file_loads(preset, altered, name):
    data = (preset / name).read_bytes()
    rng = random.Random(SEED)
    for bit in rng.sample(range(8 * len(data)), SAMPLES):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (altered / name).write_bytes(flipped)
        assert not loads(altered), (name, bit)
    for other in (data[:-1], data + b"\n", b""):
        (altered / name).write_bytes(other)
        assert not loads(altered)
    (altered / name).unlink()
    assert not loads(altered)
    os.mkfifo(altered / name)
    assert not loads(altered)


@pytest.mark.parametrize(
    "text",
    [
        lambda text: text.replace("\n", "\n "),
        lambda text: text.replace('"radius": 1.0', '"radius": 1.00'),
        lambda text: text.replace('"depth": 2,', '"depth": 3,\n    "depth": 2,'),
        lambda text: "\ufeff" + text,
    ],
)
def test_another_spelling_of_the_same_is_an_alteration(altered, text):
    path = altered / "preset.json"
    before = path.read_text()
    path.write_text(text(before))
    assert path.read_text() != before and not loads(altered)
    path.write_bytes(before.replace("\n", "\r\n").encode())  # as a checkout may make it
    assert loads(altered)


def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(altered):
    (altered / "preset.json").unlink()
    os.mkfifo(altered / "preset.json")
    assert not loads(altered)
    with pytest.warns(UserWarning, match="no regular file"):
        root = altered.parent / "root"
        (root / "igr").mkdir(parents=True)
        altered.rename(root / "igr" / "small")
        assert pretrained.find("igr.small", [root]) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "dtype",
            {"module": "keras", "class_name": "DTypePolicy"},
            "has 'dtype', which 'igr' does",
        ),
        ("name", {"a": 1}, "has 'name', which 'igr' does not take"),
        ("depth", "2", "depth is '2', expected a whole number"),
        ("depth", True, "depth is True, expected a whole number"),
        ("depth", 10**12, "depth is 1000000000000, expected a whole number of a sensible size"),
        ("width", 8.5, "width is 8.5, expected a whole number"),
        ("centred", "False", "centred is 'False', expected true or false"),
        ("centred", 0, "centred is 0, expected true or false"),
        ("skips", "12", "skips is '12', expected a list"),
        ("skips", ["1"], "skips is .*, expected a list"),
        ("skips", [1] * 100_001, "skips is .*, expected a list .* of a sensible size"),
        ("activation", {"class_name": "Lambda"}, "activation is .*, expected a value"),
    ],
)
def test_configurations_are_checked_before_anything_is_built(altered, name, value, words):
    signed(altered, **{f"config__{name}": value})
    with pytest.raises(pretrained.ManifestError, match=f"config[. ]{words}"):
        zoo.load(altered)


def test_parts_of_a_chain_are_checked_as_well(tmp_path):
    part = {"method": "affine", "config": {"dims": 2, "levels": 1}}
    chain = zoo.create("chain", first=part, second=part)
    folder = chain.save_preset(tmp_path / "both")
    assert loads(folder)
    signed(folder, config__first__config__dtype="float64")
    with pytest.raises(pretrained.ManifestError, match="first.config has 'dtype', which 'affine'"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: np.full_like(data, np.nan), "NaN or infinite"),
        (lambda data: np.where(data == data.max(), np.inf, data), "NaN or infinite"),
        (lambda data: data.astype(np.float64), "is of float64, expected float16 or float32"),
        (lambda data: data.astype(np.int32), "is of int32, expected"),
        (lambda data: data.astype(np.complex64), "is of complex64, expected"),
        (lambda data: data.astype("S8"), "is of bytes64, expected"),
    ],
)
def test_weights_are_finite_and_of_the_types_of_the_model(altered, change, words):
    with h5py.File(altered / "model.weights.h5", "r+") as file:
        names = arrays(file)
        name = max(names, key=lambda name: file[name].size)
        data = change(file[name][()])
        del file[name]
        file[name] = data
    signed(altered)
    with pytest.raises(ValueError, match=words):
        zoo.load(altered)


def test_half_precision_weights_are_welcome(altered):
    with h5py.File(altered / "model.weights.h5", "r+") as file:
        for name in arrays(file):
            data = file[name][()].astype(np.float16)
            del file[name]
            file[name] = data
    signed(altered)
    assert loads(altered)


@pytest.mark.parametrize("kind", ["bomb", "external", "virtual", "soft"])
def test_weight_files_hold_what_they_declare(altered, tmp_path, kind):
    path = altered / "model.weights.h5"
    (tmp_path / "other").write_bytes(bytes(400))
    with h5py.File(path, "r+") as file:
        if kind == "bomb":
            file.create_dataset("more", (10**11,), np.float32, chunks=(10**6,), compression="gzip")
        elif kind == "external":
            file.create_dataset(
                "more", (9,), np.float32, external=[(str(tmp_path / "other"), 0, 36)]
            )
        elif kind == "virtual":
            layout = h5py.VirtualLayout((9,), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other"), "x", (9,))
            file.create_virtual_dataset("more", layout)
        else:
            file["more"] = h5py.ExternalLink(str(tmp_path / "other"), "/x")
    signed(altered)
    with pytest.raises(ValueError, match="declares more|another file|is a link"):
        zoo.load(altered)


def test_the_stored_output_is_compared_on_request(altered, capsys):
    zoo.load(altered, golden=True)
    with np.load(altered / "golden.npz") as file:
        golden = dict(file)
    golden["output.distance"] = golden["output.distance"] + 0.1
    np.savez_compressed(altered / "golden.npz", **golden)
    signed(altered)
    assert loads(altered)
    with pytest.raises(pretrained.IntegrityError, match="distance is not what golden.npz stores"):
        zoo.load(altered, golden=True)
    assert main(["verify", str(altered)]) == 0
    assert main(["verify", str(altered), "--golden"]) == 1
    assert "largest difference is 0.1" in capsys.readouterr().out


def test_a_stored_output_that_unpacks_without_end_is_refused(altered):
    zeros = np.zeros(2**27, np.float32)
    np.savez_compressed(altered / "golden.npz", **{"input.points": zeros})
    assert (altered / "golden.npz").stat().st_size < 2**20
    signed(altered)
    with pytest.raises(ValueError, match="declares 5368.* bytes when unpacked"):
        zoo.load(altered, golden=True)


def test_states_anew_what_was_edited_but_no_weights(preset, altered):
    path = altered / "preset.json"
    path.write_text(path.read_text().replace("Small.", "Smaller."))
    (altered / "train.py").write_text("print()\n")
    assert not loads(altered)
    assert main(["verify", str(altered), "--rehash", "--golden"]) == 0
    assert loads(altered) and "Smaller." in (altered / "card.md").read_text()
    weights = altered / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(pretrained.IntegrityError, match="weights.h5 has sha256 .* not stated anew"):
        pretrained.rehash(altered)


def test_a_preset_of_the_first_format_loads_with_a_warning(altered):
    manifest = json.loads((altered / "preset.json").read_text())
    del manifest["sha256"], manifest["files"]["card.md"]
    (altered / "preset.json").write_text(json.dumps(manifest | {"format": 1}))
    with pytest.warns(UserWarning, match="format 1 and has no hash of itself"):
        assert loads(altered)
    assert "no hash of itself" in pretrained.verify(pretrained.info(altered))[0]
    pretrained.rehash(altered)
    assert pretrained.verify(pretrained.info(altered)) == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = zoo.create("igr", width=8, depth=2, skips=())
    kernel = model.network.linear[0].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="NaN or infinite: the training has diverged"):
        model.save_preset(tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved_is_known_before_the_training(tmp_path):
    model = zoo.create("igr", width=8, depth=2, skips=())
    model.check_preset(tmp_path / "good")
    (tmp_path / "file").write_text("")
    for name, error in (
        ("my scan", ValueError),
        ("x" * 220, ValueError),
        ("file", FileExistsError),
    ):
        with pytest.raises(error):
            model.check_preset(tmp_path / name)
    with pytest.raises(NotADirectoryError):
        model.check_preset(tmp_path / "file" / "x")
    with pytest.raises(ValueError, match="licence.data is missing"):
        model.check_preset(tmp_path / "good", licence={"weights": "MIT"})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
