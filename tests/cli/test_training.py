"""`zoo train`: surfaces and registration networks, on small cases."""

import numpy as np
import pytest

import pretrained
import zoo
from zoo.cli import training
from zoo.cli.arguments import settings
from zoo.data.phantoms import phantom_pair
from zoo.io.images import write_labels


def test_train_from_scratch_and_from_a_preset(run, preset, scan, tmp_path):
    quick = ("--epochs", 1, "--steps-per-epoch", 2)
    fresh = tmp_path / "fresh"
    words = ("--set", "width=32", "--set", "depth=2", "--set", "skips=[1]")
    status, said, _ = run("train", "igr", scan, "--out", fresh, *quick, *words)
    assert status == 0 and "zoo.load" in said
    assert zoo.load(fresh).network.width == 32
    status, _, err = run("train", "igr", scan, "--out", fresh, *quick)
    assert status == 1 and "--overwrite" in err
    tuned = tmp_path / "tuned"
    assert run("train", preset, scan, "--out", tuned, *quick)[0] == 0
    points = np.eye(3)
    assert not np.array_equal(zoo.load(tuned).predict(points), zoo.load(preset).predict(points))


def test_training_resumes_only_for_the_same_content(scan, preset):
    def folder(path, *words):
        command = ("train", "igr", path, "--out", "folder", *words)
        options = zoo.cli.parser().parse_args([str(word) for word in command])
        read = zoo.Scan.read(path)
        return training._backup_folder(options, [read.points, read.normals])

    copy = scan.with_name("copy.xyz")
    copy.write_bytes(scan.read_bytes())
    assert folder(scan) == folder(copy) != folder(scan, "--seed", 1)
    assert folder(scan).is_relative_to(pretrained.home())
    rows = np.loadtxt(scan)
    np.savetxt(copy, rows[:, :3])
    bare = folder(copy)
    np.savetxt(copy, rows[::-1, :3])
    assert len({folder(scan), bare, folder(copy)}) == 3


SMALL = [f"--set={each}" for each in ("width=8", "depth=2", "skips=[]", "neighbours=5")]
SHORT = (*SMALL, "--epochs", 2, "--steps-per-epoch", 2)


def test_a_full_disk_does_not_cost_the_training(run, scan, tmp_path, monkeypatch):
    command = ("train", "igr", scan, "--out", tmp_path / "mine", *SHORT)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "write", full)
        status, said, err = run(*command)
    assert status == 1 and "Epoch 2/2" in said
    assert "No space left on device; the training is kept, and the same command writes it" in err
    assert not (tmp_path / "mine").exists()
    status, said, _ = run(*command)
    assert status == 0 and "Epoch" not in said
    assert zoo.load(tmp_path / "mine", golden=True).network.width == 8


def test_a_training_that_diverges_writes_nothing(run, scan, tmp_path):
    command = ("train", "igr", scan, "--out", tmp_path / "mine", *SHORT, "--learning-rate", 1e30)
    status, _, err = run(*command)
    assert status == 1 and "the training has diverged" in err
    assert not (tmp_path / "mine").exists()
    left = pretrained.home() / "interrupted"
    assert not left.exists() or not any(left.iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--out", "my scan"), "my scan"),
        (("--out", "x" * 220), "200 bytes"),
        (("--out", "mine", "--set", "beta=NaN"), "beta must be a finite number"),
        (("--out", "mine", "--set", "centred=None"), "centred must be true or false"),
        (("--out", "mine", "--set", "centred=2"), "centred must be true or false"),
        (("--out", "mine", "--learning-rate", "nan"), "--learning-rate must be positive"),
        (("--out", "mine", "--learning-rate", "0"), "--learning-rate must be positive"),
        (("--out", "mine", "--learning-rate", "-1"), "--learning-rate must be positive"),
        (("--out", "mine", "--epochs", "0"), "--epochs must be at least 1"),
    ],
)
def test_what_must_fail_fails_before_the_training(run, scan, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    status, said, err = run("train", "igr", scan, *SMALL, *words)
    assert status == 1 and reason in err and "Epoch" not in said


@pytest.mark.parametrize(("word", "value"), [("False", False), ("no", False), ("1", True)])
def test_false_is_false(word, value):
    for name in ("centred", "scale_skips"):
        assert settings("igr", [f"{name}={word}"]) == {name: value}


TINY = [f"--set={each}" for each in ("levels=1", "units=1", "filters=2", "data_kernel=1")]
QUICK = (*TINY, "--set=smoothness_kernel=3", "--epochs", 2)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A folder of eight images, one of their labels, and tables of pairs of them."""
    folder = tmp_path_factory.mktemp("slices")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(4):
        pair, _, _ = phantom_pair((24, 20), spacing=2.0, seed=number)
        for side in ("fixed", "moving"):
            image = getattr(pair, side)
            image.write(folder / "images" / f"{side}{number}.nii.gz")
            labels = (image.array[..., 0] > 0.3) * 2
            write_labels(folder / "labels" / f"{side}{number}.nii.gz", labels, image.grid)
    rows = [f"images/fixed{k}.nii.gz,images/moving{k}.nii.gz" for k in range(4)]
    (folder / "pairs.csv").write_text("\n".join(["fixed,moving", *rows]) + "\n")
    rows = [f"images/fixed0.nii.gz,images/moving{k}.nii.gz" for k in range(4)]
    (folder / "atlas.csv").write_text("\n".join(["fixed,moving", *rows]) + "\n")
    rows = [f"images/fixed{k}.nii.gz,images/fixed{(k + 1) % 4}.nii.gz" for k in range(4)]
    (folder / "ring.csv").write_text("\n".join(["fixed,moving", *rows]) + "\n")
    return folder


def test_train_on_a_table_of_pairs_and_go_on_from_the_preset(run, slices, tmp_path):
    out = tmp_path / "mine"
    words = ("train", "dirvnet", slices / "pairs.csv", "--batch-size", 2, *QUICK)
    status, said, err = run(*words, "--out", out, "--validation", 0.25, "--shape", "16x24")
    assert status == 0 and "zoo.load" in said, err
    assert "val_loss" in said
    preset = zoo.load(out)
    assert (preset.options.dims, preset.options.units) == (2, 1)
    facts = zoo.api.info(str(out)).manifest["training"]
    assert facts["data"] == "pairs.csv, 3 pairs" and facts["steps"] == 4
    tuned = tmp_path / "tuned"
    status, _, err = run("train", out, slices / "pairs.csv", "--out", tuned, "--epochs", 1)
    assert status == 0, err
    pair = zoo.Pair.read(*(slices / "images" / f"{side}0.nii.gz" for side in ("fixed", "moving")))
    before, after = (zoo.load(each).predict(pair)["displacement"] for each in (out, tuned))
    assert np.abs(before - after).max() > 1e-4
    assert not list(pretrained.home().glob("interrupted/*"))


def test_train_on_a_folder_with_labels(run, slices, tmp_path):
    out = tmp_path / "mine"
    words = ("train", "dirvnet", slices / "images", "--labels", slices / "labels", *QUICK)
    status, said, err = run(*words, "--steps-per-epoch", 3, "--out", out, "--align", "centre")
    assert status == 0, err
    manifest = zoo.api.info(str(out)).manifest
    assert manifest["config"]["labels"] == [2] and manifest["loss_weights"]["labels"] == 1
    assert manifest["training"]["data"] == "images, 56 pairs" and manifest["training"]["steps"] == 6
    assert "labels: " in said
    words = (*words, "--out", tmp_path / "other", "--loss-weight", "labels=0.25")
    assert run(*words, "--steps-per-epoch", 1)[0] == 0
    assert zoo.load(tmp_path / "other").loss_weights["labels"] == 0.25


def test_interrupted_training_on_pairs_resumes(run, slices, tmp_path, monkeypatch):
    words = ("train", "dirvnet", slices / "pairs.csv", *QUICK)
    assert run(*words, "--out", tmp_path / "a" / "mine")[0] == 0
    save = zoo.Model.save_preset

    def full(*args, **facts):
        raise OSError("No space left on device")

    def stop(self, epoch, logs=None):
        raise KeyboardInterrupt

    again = (*words, "--out", tmp_path / "b" / "mine")
    with monkeypatch.context() as patched:
        patched.setattr("zoo.model.TellEpoch.on_epoch_end", stop)
        status, _, err = run(*again)
        assert status == 130 and "resumes" in err
    with monkeypatch.context() as patched:
        patched.setattr("zoo.model.Model.save_preset", full)
        status, said, err = run(*again)
        assert status == 1 and "No space" in err and "Epoch 2/2" in said
        assert "Epoch 1/2" not in said
    status, said, _ = run(*again)
    assert status == 0 and "Epoch" not in said and save is zoo.Model.save_preset
    pair = zoo.Pair.read(*(slices / "images" / f"{side}0.nii.gz" for side in ("fixed", "moving")))
    once, resumed = (zoo.load(tmp_path / each / "mine").predict(pair) for each in "ab")
    np.testing.assert_array_equal(once["displacement"], resumed["displacement"])
    assert not list(pretrained.home().glob("interrupted/*"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("images", "--validation", "0.95"), "--validation: 0.95 of 8 images"),
        (("ring.csv", "--validation", "0.5"), "1 subject"),
        (("pairs.csv", "--validation", "absent.csv"), "--validation: no file"),
        (("pairs.csv", "--labels", "labels"), "--labels goes with a folder"),
        (("images", "--labels", "absent"), "--labels: no folder"),
        (("images", "--labels", "."), "--labels: no files for 'fixed0.nii.gz'"),
        (("images", "--shape", "16x16x16"), "--shape must have 2 sizes"),
        (("images", "--set", "channels=3"), "channels"),
        (("images", "--loss-weight", "nothing=1"), "nothing"),
        ((".",), "no images"),
    ],
)
def test_mistakes_before_training_on_pairs(run, slices, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(slices)
    out = tmp_path / "mine"
    status, said, err = run("train", "dirvnet", *words, "--out", out)
    assert status == 1 and reason in err and "Epoch" not in said and not out.exists()


def test_no_image_of_a_table_is_on_both_sides(slices):
    from zoo.cli.training_pairs import _Folder, _Table

    for name, images in (("pairs.csv", 4), ("atlas.csv", 4)):
        training_side, held_out = _Table(slices / name, None).divided(0.25, seed=1)
        counts = [len(side.batches()) for side in (training_side, held_out)]
        assert counts == [images - 1, 1]
        seen = {pair.moving.name for pair in training_side.batches().pairs}
        assert not seen & {pair.moving.name for pair in held_out.batches().pairs}
    training_side, held_out = _Folder(slices / "images", slices / "labels").divided(0.3, seed=1)
    assert [len(side.batches()) for side in (training_side, held_out)] == [30, 2]
    assert held_out.batches().pairs[0].fixed_labels is not None


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """A folder of four clouds, and a table of two pairs of them."""
    folder = tmp_path_factory.mktemp("clouds")
    (folder / "all").mkdir()
    for number in range(4):
        points = np.random.default_rng(number).normal(size=(80, 2)) * (3, 2)
        np.savetxt(folder / "all" / f"cloud{number}.xyz", points)
    rows = ["fixed,moving", "all/cloud0.xyz,all/cloud1.xyz", "all/cloud2.xyz,all/cloud3.xyz"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


GRAPH = [
    f"--set={each}"
    for each in ("width=4", "embedding=4", "descriptors=4", "neighbours=4", "candidates=6")
]
GRAPH += ["--set=lattice=8", "--set=blurs=[1.0]", "--set=points=32", "--epochs", 2]


def test_train_on_a_folder_of_clouds_and_their_deformed_copies(run, clouds, tmp_path):
    out = tmp_path / "mine"
    words = ("train", "dgcnn", clouds / "all", "--batch-size", 2, *GRAPH)
    status, said, err = run(*words, "--out", out, "--validation", 0.25)
    assert status == 0 and "val_loss" in said, err
    facts = zoo.api.info(str(out)).manifest["training"]
    assert facts["data"] == "all, 3 clouds" and facts["steps"] == 4
    assert zoo.load(out).points == 32
    status, _, err = run(*words, "--out", tmp_path / "other", "--shape", "8x8")
    assert status == 1 and "--shape is for pairs of images" in err


@pytest.mark.parametrize("teacher", [(), ("--set=teacher=0.9",)])
def test_train_on_a_table_of_clouds_without_any_truth(run, clouds, tmp_path, teacher):
    out = tmp_path / "mine"
    status, _, err = run("train", "dgcnn", clouds / "pairs.csv", *GRAPH, *teacher, "--out", out)
    assert status == 0, err
    assert zoo.api.info(str(out)).manifest["training"]["data"] == "pairs.csv, 2 pairs"
