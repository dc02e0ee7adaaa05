"""Presets go to a hub and come back, through its own client and without it."""

import shutil
import subprocess
import sys
from pathlib import Path

import fake_hub
import pytest
import yaml

import pretrained
import zoo
from pretrained import FetchError, IntegrityError, PushError, pushing

huggingface_hub = pytest.importorskip("huggingface_hub")
ROOT = Path(pretrained.__file__).parents[1]
KNOT = ROOT / "pretrained" / "igr" / "knot"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    for name in ("ZOO_OFFLINE", "ZOO_TIMEOUT", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def without_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("pretrained.hub.find_spec", lambda name: None)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(KNOT, tmp_path / "igr" / "knot")


def test_a_preset_goes_there_and_comes_back(hub, folder):
    handle = zoo.push(folder, "hf://owner/knot")
    commit, files = hub.repositories["owner/knot"][-1]
    assert handle == f"hf://owner/knot@{commit}"
    assert set(files) == {path.name for path in folder.iterdir()} | {"README.md"}
    for path in folder.iterdir():
        assert files[path.name] == path.read_bytes()
    for where in (handle, "hf://owner/knot"):
        preset = pretrained.locate(where)
        assert preset.name == "igr.knot" and pretrained.verify(preset) == []
        weights = preset.path("model.weights.h5")
        assert weights.read_bytes() == (folder / "model.weights.h5").read_bytes()
    assert ("GET", f"/owner/knot/resolve/{commit}/preview.png") not in hub.asked
    # Another one is another commit; the first is still there.
    other = zoo.push("igr.fish", "hf://owner/knot")
    assert pretrained.info("hf://owner/knot").name == pretrained.info(other).name == "igr.fish"
    assert pretrained.info(handle).name == "igr.knot"


def test_the_card_has_what_a_hub_reads(hub, folder):
    zoo.push(folder, "hf://owner/knot")
    front, text = hub.repositories["owner/knot"][-1][1]["README.md"].decode()[4:].split("---\n", 1)
    facts = yaml.safe_load(front)
    assert facts["license"] == "cc0-1.0" and facts["library_name"] == "keras"
    assert {"deformation-zoo", "igr", "surface", "points"} <= set(facts["tags"])
    assert {"chamfer", "hausdorff"} <= set(facts["metrics"])
    assert text.startswith("\n# igr.knot\n") and "![preview](preview.png)" in text
    assert 'zoo.load("hf://owner/knot")' in text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("CC0-1.0", {"license": "cc0-1.0"}),
        ("CC-BY-SA-4.0", {"license": "cc-by-sa-4.0"}),
        ("GPL-2.0-only", {"license": "gpl-2.0"}),
        ("AGPL-3.0-or-later", {"license": "agpl-3.0"}),
        ("unspecified", {"license": "unknown"}),
        ("LicenseRef-noncommercial-research", "licenseref-noncommercial-research"),
        ("CC0-1.0 AND MIT", "cc0-1.0-and-mit"),
        ("as the authors' file", "as-the-authors-file"),
    ],
)
def test_licences_as_a_hub_names_them(written, expected):
    if isinstance(expected, str):
        expected = {"license": "other", "license_name": expected, "license_link": "README.md"}
    assert pushing.licence(written) == expected


def test_an_altered_preset_is_not_pushed(hub, folder):
    card = folder / "card.md"
    original = card.read_bytes()
    card.write_text("# Mine\n")
    with pytest.raises(IntegrityError, match="card.md has"):
        zoo.push(folder, "hf://owner/knot")
    card.write_bytes(original)
    weights = folder / "model.weights.h5"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match=r"model\.weights\.h5 has"):
        zoo.push(folder, "hf://owner/knot")
    (folder / "preset.json").write_text("{}")
    with pytest.raises(pretrained.ManifestError, match="format is None"):
        zoo.push(folder, "hf://owner/knot")
    assert hub.asked == [] and hub.repositories == {}


def test_what_is_missing_is_told(hub, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(PushError, match="ZOO_OFFLINE=1 forbids uploads"):
        zoo.push(folder, "hf://owner/knot")
    monkeypatch.delenv("ZOO_OFFLINE")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushError, match="no token of the hub: log in by `hf auth login`, or set"):
        zoo.push(folder, "hf://owner/knot")
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(PushError, match=f"{hub.url} did not take owner/knot: .*401"):
        zoo.push(folder, "hf://owner/knot")
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    with pytest.raises(PushError, match="did not take somebody-else/knot: .*403.*the rights"):
        zoo.push(folder, "hf://somebody-else/knot")
    with pytest.raises(pretrained.PresetNotFound, match="holds no preset.json"):
        zoo.push(tmp_path, "hf://owner/knot")


def test_without_the_client_nothing_is_pushed_and_all_is_loaded(hub, folder, without_client):
    with pytest.raises(ImportError, match="huggingface_hub is needed: pip install hugg"):
        zoo.push(folder, "hf://owner/knot")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories["owner/knot"] = [("0" * 40, files)]
    assert pretrained.locate("hf://owner/knot").path("golden.npz").is_file()
    assert {method for method, _ in hub.asked} == {"GET"}


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("handle", "owner/knot", "handle is 'owner/knot', expected hf://owner/name"),
        ("handle", "hf://owner", "handle is 'hf://owner', expected"),
        ("handle", "hf://owner/knot@main", "expected hf://owner/name"),
        ("handle", "hf://owner/..", "expected hf://owner/name"),
        ("handle", None, "handle is None, expected"),
        ("private", 1, "private is 1, expected True or False"),
        ("folder", 3, "folder is 3, expected a preset's folder or name"),
    ],
)
def test_wrong_arguments(hub, folder, argument, value, words):
    given = {"folder": folder, "handle": "hf://owner/knot", "private": False, argument: value}
    with pytest.raises((ValueError, TypeError), match=words):
        zoo.push(**given)
    assert hub.asked == []


def test_private_repositories_need_the_token(hub, folder, monkeypatch):
    handle = zoo.push(folder, "hf://owner/secret", private=True)
    assert hub.private == {"owner/secret"}
    assert pretrained.locate(handle).name == "igr.knot"
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FetchError, match="could not be fetched") as caught:
        pretrained.info("hf://owner/secret")
    lines = str(caught.value).splitlines()[1:]
    assert lines[0].startswith("  hf://owner/secret/preset.json@main: ") and "401" in lines[0]
    assert lines[1].startswith(f"  {hub.url}/owner/secret/resolve/main/preset.json: 401")


def test_a_download_goes_on_where_it_broke(hub, folder):
    handle = zoo.push(folder, "hf://owner/knot")
    hub.asked.clear()
    hub.broken = 1
    preset = pretrained.locate(handle)
    assert pretrained.verify(preset) == [] and hub.broken == 0
    digest = preset.manifest["files"]["model.weights.h5"]["sha256"]
    assert hub.asked.count(("GET", f"/lfs/{digest}")) == 2
    assert hub.told == []


def test_an_altered_file_of_a_hub_is_refused(hub, folder):
    zoo.push(folder, "hf://owner/knot")
    commit, files = hub.repositories["owner/knot"][-1]
    weights = b"x" + files["model.weights.h5"][1:]
    hub.repositories["owner/knot"].append(("f" * 40, files | {"model.weights.h5": weights}))
    with pytest.raises(FetchError, match="sha256 mismatch"):
        pretrained.locate("hf://owner/knot")
    longer = files["model.weights.h5"] + b"more"
    hub.repositories["owner/knot"].append(("e" * 40, files | {"model.weights.h5": longer}))
    with pytest.raises(FetchError, match=f"too long: {len(longer)} bytes, more than"):
        pretrained.locate("hf://owner/knot")
    assert pretrained.locate(f"hf://owner/knot@{commit}").name == "igr.knot"


def test_the_shell_pushes_and_loads_no_keras(hub, folder):
    code = (
        "import sys, huggingface_hub.constants as c; c.HF_HUB_DISABLE_XET = True;"
        "from zoo.cli import main; status = main(sys.argv[1:]);"
        "print(sorted({'keras', 'tensorflow'} & set(sys.modules))); sys.exit(status)"
    )
    words = ["push", str(folder), "hf://owner/knot", "--private"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    commit = hub.repositories["owner/knot"][-1][0]
    told = f"load it with zoo.load('hf://owner/knot@{commit}')\n[]\n"
    assert (done.returncode, done.stdout) == (0, told), done.stderr
    assert hub.private == {"owner/knot"}
    (folder / "card.md").write_text("")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith("zoo: preset igr.knot: ")


def test_a_model_loads_from_a_hub(hub, folder):
    model = zoo.load(zoo.push(folder, "hf://owner/knot"), golden=True)
    assert model.count_params() == zoo.load("igr.knot").count_params()
