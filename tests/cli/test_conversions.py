"""`zoo convert`, on small files."""

import json

import h5py
import numpy as np
import pytest

import zoo


@pytest.fixture
def parameters(tmp_path):
    """A planar network as nnabla stores its parameters."""
    random, path = np.random.default_rng(0), tmp_path / "param.h5"
    with h5py.File(path, "w") as file:
        for number, size in enumerate([(2, 24), (24, 22), (24, 24), (24, 1)]):
            file[f"fc{number}/affine/W"] = random.normal(size=size).astype(np.float32)
            file[f"fc{number}/affine/b"] = np.zeros(size[1], np.float32)
    return path


def test_a_file_becomes_a_preset(run, parameters, tmp_path):
    out = tmp_path / "mine"
    status, said, err = run("convert", parameters, "--to", "igr", "--out", out)
    assert status == 0 and not err and said.startswith(f"{out}: load it with zoo.load(")
    model = zoo.load(str(out), golden=True)
    points = np.random.default_rng(1).uniform(-1, 1, (9, 2))
    wanted = zoo.checkpoints.read_igr(parameters).predict(points)
    np.testing.assert_allclose(model.predict(points), wanted, rtol=1e-5)
    manifest = json.loads((out / "preset.json").read_text())
    assert manifest["licence"]["weights"] == "as the authors' file"
    assert "param.h5, SHA-256 " in manifest["notes"] and "param.h5" in manifest["summary"]

    before = (out / "preset.json").read_bytes()
    status, _, err = run("convert", parameters, "--to", "igr", "--out", out)
    assert status == 1 and "--overwrite" in err and (out / "preset.json").read_bytes() == before
    words = ("--overwrite", "--set", "activation=relu")
    assert run("convert", parameters, "--to", "igr", "--out", out, *words)[0] == 0
    assert zoo.load(str(out)).get_config()["activation"] == "relu"


def test_a_state_dict_becomes_a_preset(run, tmp_path):
    torch = pytest.importorskip("torch")
    random, state = np.random.default_rng(0), {}
    for number, (entering, leaving) in enumerate([(3, 16), (16, 16), (16, 1)]):
        state[f"lin{number}.weight"] = torch.tensor(random.normal(size=(leaving, entering)))
        state[f"lin{number}.bias"] = torch.zeros(leaving)
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "latest.pth")
    out = tmp_path / "mine"
    assert run("convert", tmp_path / "latest.pth", "--to", "igr", "--out", out)[0] == 0
    assert zoo.load(str(out), golden=True).get_config()["depth"] == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("absent.h5", "--to", "igr", "--out", "mine"), "path: no file 'absent.h5'"),
        (("FILE", "--to", "igr", "--out", "my bunny"), "tag is 'my bunny'"),
        (("FILE", "--to", "igr", "--out", "mine", "--set", "bta=1"), "beta"),
        (("FILE", "--to", "igr", "--out", "mine", "--set", "width=32"), "of another shape: fc0"),
        (("OTHER", "--to", "igr", "--out", "mine"), "is none of IGR's"),
    ],
)
def test_mistakes_leave_nothing(run, parameters, tmp_path, monkeypatch, words, reason):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["weights"] = np.ones(3, np.float32)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    words = [{"FILE": str(parameters), "OTHER": str(other)}.get(word, word) for word in words]
    status, out, err = run("convert", *words)
    assert status == 1 and not out and reason in err
    assert err.startswith("zoo: ") and err.count("\n") == 1
    assert not list((tmp_path / "empty").iterdir())


def test_only_methods_with_published_files(run, parameters):
    with pytest.raises(SystemExit):
        run("convert", parameters, "--to", "dirvnet", "--out", "mine")
