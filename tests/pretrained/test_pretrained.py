"""Presets: the schema, the card, names, downloads that fail in every way, writing and verifying."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pretrained
from pretrained import FetchError, IntegrityError, ManifestError, PresetNotFound

ROOT = Path(pretrained.__file__).parents[1]
WEIGHTS = bytes(range(256)) * 40
GOLDEN = b"golden" * 30
PIN = "0123456789abcdef" * 2 + "01234567"


def entry(data, *urls, **more):
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **more}
    return {**facts, "urls": list(urls)} if urls else facts


def manifest(name="toy.small", **changes):
    model, tag = name.split(".")
    return {
        "format": 2,
        "model": model,
        "tag": tag,
        "config": {"width": 8, "sizes": [1, 2]},
        "files": {"model.weights.h5": entry(WEIGHTS)},
        "inputs": {"points": {"shape": [None, 3], "dtype": "float32", "unit": "mm"}},
        "outputs": {"distance": {"shape": [None, 1], "dtype": "float32", "unit": "mm"}},
        "licence": {"weights": "CC-BY-4.0", "data": "CC0-1.0", "attribution": "A. N. Author"},
        **changes,
    }


def text(content):
    """A manifest as it has to be written, with its hash, without the package's own writer."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    whole = {**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def place(root, content, weights=WEIGHTS):
    """Puts a preset folder on disk without the package's own writer."""
    folder = root / content["model"] / content["tag"]
    folder.mkdir(parents=True)
    (folder / "preset.json").write_text(text(content))
    if weights is not None:
        (folder / "model.weights.h5").write_bytes(weights)
    return folder


def remote(root, *urls, name="toy.small"):
    files = {"model.weights.h5": entry(WEIGHTS, *urls)}
    return place(root, manifest(name, files=files), weights=None)


def files_under(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        behaviour, data = self.path.split("/")[1], self.server.files.get(self.path, WEIGHTS)
        if behaviour == "404" or (behaviour == "owner" and self.path not in self.server.files):
            self.send_error(404)
            return
        body = {
            "short": data[:100],
            "stall": data[:100],
            "corrupt": b"x" + data[1:],
            "long": data + b"more",
            "smaller": data[:100],
        }.get(behaviour, data)
        self.send_response(200)
        length = len(body) if behaviour in ("long", "smaller") else len(data)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        if behaviour == "stall":
            self.wfile.flush()
            self.server.release.wait(5)

    def log_message(self, *args):
        """Keeps the test output clean."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        running.asked, running.files, running.release = [], {}, threading.Event()
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "cache"))
    for name in ("ZOO_OFFLINE", "HF_ENDPOINT", "ZOO_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    # A proxy that the machine may need must not come between the tests and their server.
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


# --- the manifest and its card ------------------------------------------------------------------


def test_a_valid_manifest_passes():
    pretrained.validate(manifest(extra={"of": "a plugin"}), "here")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tag": 3}, "tag is 3, expected a name"),
        ({"model": "../up"}, "model is '../up'"),
        ({"config": []}, "config is .*, expected an object"),
        ({"default": "yes"}, "default is 'yes', expected true or false"),
        ({"files": {}}, "files.model.weights.h5 is missing"),
        ({"licence": {"weights": "MIT"}}, "licence.data is missing"),
        ({"licence": {"weights": "MIT", "data": " "}}, "licence.data is ' '"),
        ({"inputs": {"x": {"shape": [-1], "unit": ""}}}, r"inputs.x.shape\[0\] is -1"),
        ({"outputs": {"x": {"shape": [1]}}}, "outputs.x.unit is missing"),
        ({"metrics": [{"data": "d", "protocol": "p", "name": "n"}]}, r"metrics\[0\].value is miss"),
        ({"training": {"seed": 1.5}}, "training.seed is 1.5"),
    ],
)
def test_schema_errors_name_file_and_key(changes, words):
    with pytest.raises(ManifestError, match=f"here: {words}"):
        pretrained.validate(manifest(**changes), "here")


@pytest.mark.parametrize("key", ["model", "tag", "config", "files", "inputs", "outputs", "licence"])
def test_required_keys(key):
    broken = manifest()
    del broken[key]
    with pytest.raises(ManifestError, match=f"{key} is missing"):
        pretrained.validate(broken, "here")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"sha256": "abc"}, "sha256 is 'abc', expected 64"),
        ({"bytes": "12"}, "bytes is '12'"),
        ({"bytes": True}, "bytes is True"),
        ({"urls": ["ftp://host/x"]}, r"urls\[0\] is 'ftp://host/x', expected an http"),
        ({"rtol": float("nan")}, "rtol is nan"),
    ],
)
def test_schema_errors_in_files(facts, words):
    files = {"model.weights.h5": {**entry(WEIGHTS), **facts}}
    with pytest.raises(ManifestError, match=f"files.model.weights.h5.{words}"):
        pretrained.validate(manifest(files=files), "here")


@pytest.mark.parametrize(
    "name", ["../evil", "a/b", "a\\b", "..", ".hidden", "/abs", "", "preset.json"]
)
def test_file_names_stay_in_the_folder(name):
    files = {"model.weights.h5": entry(WEIGHTS), name: entry(GOLDEN)}
    with pytest.raises(ManifestError, match="expected a plain file name"):
        pretrained.validate(manifest(files=files), "here")


@pytest.mark.parametrize("name", ["model.pth", "x.keras", "x.h5", "x.weights.pt", "x.PKL"])
def test_only_weights_that_cannot_run_code(name):
    files = {"model.weights.h5": entry(WEIGHTS), name: entry(GOLDEN)}
    with pytest.raises(ManifestError, match=".weights.h5 only"):
        pretrained.validate(manifest(files=files), "here")


def test_a_newer_format_asks_for_an_upgrade():
    with pytest.raises(ManifestError, match="format is 3, and the newest .* is 2: upgrade"):
        pretrained.validate({"format": 3, "unknown": "keys"}, "here")
    with pytest.raises(ManifestError, match="format is None"):
        pretrained.validate({}, "here")


def test_the_card_tells_what_a_reader_needs():
    content = manifest(
        summary="A toy.",
        metrics=[
            {"data": "lungs", "protocol": "held out", "name": "tre", "value": 1.25, "unit": "mm"},
            {"data": "lungs", "protocol": "held out", "name": "dice", "value": 0.5},
            {"data": "lungs", "protocol": "a|b", "name": "tre", "value": 2, "unit": "mm"},
            {"data": "livers", "protocol": "held out", "name": "tre", "value": 3.0, "unit": "mm"},
        ],
        training={"data": "synthetic", "versions": {"keras": "3.1"}, "script": "train.py"},
        paper="arXiv:0000.00000",
        notes="For tests.",
    )
    written = pretrained.card(content, handle="toy.small")
    for words in (
        "# toy.small\n\nA toy.\n",
        'zoo.load("toy.small")',
        "### lungs\n\n| Protocol | tre (mm) | dice |\n",
        "| held out | 1.25 | 0.5 |\n| a\\|b | 2 |  |\n\n### livers\n",
        "| input `points` | (any, 3) | float32 | mm |",
        "- Weights: CC-BY-4.0\n- Data: CC0-1.0\n- Attribution: A. N. Author",
        "- Versions: keras 3.1",
        "arXiv:0000.00000",
        "For tests.\n",
    ):
        assert words in written
    assert "preview.png" not in written
    assert 'zoo.load("./small")  # the path of this folder' in pretrained.card(content)
    assert "![preview](preview.png)" in pretrained.card(content, preview=True)
    assert "How good" not in pretrained.card(manifest())


# --- names ---------------------------------------------------------------------------------------


def test_find_matches_wildcards_in_any_case(tmp_path):
    for name in ("toy.small", "toy.Large", "other.small"):
        place(tmp_path / "root", manifest(name))
    roots = [tmp_path / "root", tmp_path / "nowhere"]
    assert [p.name for p in pretrained.find("TOY.*", roots)] == ["toy.Large", "toy.small"]
    assert [p.name for p in pretrained.find("*.small", roots)] == ["other.small", "toy.small"]
    assert pretrained.info("Toy.large", roots).name == "toy.Large"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', json.dumps(manifest("toy.else"))])
def test_a_broken_manifest_hurts_nobody_else(tmp_path, text):
    place(tmp_path, manifest())
    (tmp_path / "toy" / "broken").mkdir()
    (tmp_path / "toy" / "broken" / "preset.json").write_text(text)
    with pytest.warns(UserWarning, match=r"toy.broken is skipped: .*preset\.json"):
        assert [p.name for p in pretrained.find("toy.*", [tmp_path])] == ["toy.small"]
    assert pretrained.locate("toy.small", [tmp_path]).tag == "small"
    with pytest.raises(ManifestError, match="preset.json"):
        pretrained.info("toy.broken", [tmp_path])


def test_the_first_of_two_equal_names_wins(tmp_path):
    first = place(tmp_path / "a", manifest())
    place(tmp_path / "b", manifest())
    roots = [tmp_path / "a", tmp_path / "b"]
    with pytest.warns(UserWarning, match="is ignored"):
        assert [p.folder for p in pretrained.find("toy.*", roots)] == [first]


def test_a_model_name_means_its_default_or_only_preset(tmp_path):
    place(tmp_path, manifest("toy.small"))
    assert pretrained.info("toy", [tmp_path]).name == "toy.small"
    place(tmp_path, manifest("toy.large"))
    with pytest.raises(PresetNotFound, match="several presets.*: toy.large, toy.small"):
        pretrained.info("toy", [tmp_path])
    place(tmp_path, manifest("toy.medium", default=True))
    assert pretrained.info("toy", [tmp_path]).name == "toy.medium"


def test_unknown_names_list_close_matches(tmp_path):
    place(tmp_path, manifest())
    with pytest.raises(PresetNotFound, match="'toy.smal'; close matches: toy.small"):
        pretrained.info("toy.smal", [tmp_path])
    with pytest.raises(LookupError, match="known presets: .*toy.small"):
        pretrained.info("*", [tmp_path])


def test_a_folder_is_a_handle(tmp_path, monkeypatch):
    folder = place(tmp_path, manifest())
    monkeypatch.chdir(folder.parent)
    for handle in (str(folder), folder, "./small", "small", f"{folder}/"):
        assert pretrained.locate(handle).path("model.weights.h5").read_bytes() == WEIGHTS
    (tmp_path / "toy" / "empty").mkdir()
    with pytest.raises(PresetNotFound, match="holds no preset.json"):
        pretrained.info("./empty")


def test_config_is_a_copy(tmp_path):
    preset = pretrained.info(place(tmp_path, manifest()))
    preset.config["sizes"].append(3)
    assert preset.config == {"width": 8, "sizes": [1, 2]}
    with pytest.raises(FileNotFoundError, match="no file 'golden.npz'"):
        preset.path("golden.npz")


# --- files in the folder ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WEIGHTS[:-1], f"has {len(WEIGHTS) - 1} bytes, expected {len(WEIGHTS)}"),
        (b"x" + WEIGHTS[1:], "has sha256 [0-9a-f]{64}, expected " + entry(WEIGHTS)["sha256"]),
    ],
)
def test_an_altered_file_is_refused_and_left_alone(tmp_path, server, data, words):
    folder = remote(tmp_path, f"{server.url}/good/w")
    (folder / "model.weights.h5").write_bytes(data)
    with pytest.raises(IntegrityError, match=f"model.weights.h5 {words}"):
        pretrained.locate(folder)
    assert (folder / "model.weights.h5").read_bytes() == data
    assert server.asked == []


def test_a_missing_file_without_urls(tmp_path):
    folder = place(tmp_path, manifest(), weights=None)
    with pytest.raises(FileNotFoundError, match=r"model\.weights\.h5 is missing.*no URL"):
        pretrained.locate(folder)


# --- downloads -----------------------------------------------------------------------------------


def test_fetch_once_then_from_the_cache(tmp_path, server, cache, monkeypatch):
    folder = remote(tmp_path, f"{server.url}/good/w")
    preset = pretrained.locate(folder)
    expected = cache / "files" / entry(WEIGHTS)["sha256"] / "model.weights.h5"
    assert preset.path("model.weights.h5") == expected
    assert expected.read_bytes() == WEIGHTS and files_under(cache) == [expected]
    assert files_under(folder) == [folder / "preset.json"]
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    pretrained.locate(folder)
    assert server.asked == ["/good/w"]


def test_urls_are_tried_in_order(tmp_path, server):
    ways = ("404", "short", "corrupt", "long", "good", "never")
    folder = remote(tmp_path, *(f"{server.url}/{way}/w" for way in ways))
    assert pretrained.locate(folder).path("model.weights.h5").read_bytes() == WEIGHTS
    assert server.asked == [f"/{way}/w" for way in ways[:5]]


def test_every_failure_is_told_and_nothing_is_left(tmp_path, server, cache, monkeypatch):
    monkeypatch.setenv("ZOO_TIMEOUT", "0.3")
    size = len(WEIGHTS)
    reasons = {
        f"{server.url}/404/w": "404 Not Found",
        f"{server.url}/short/w": f"truncated: got 100 of {size} bytes",
        f"{server.url}/smaller/w": f"truncated: got 100 of {size} bytes",
        f"{server.url}/corrupt/w": "sha256 mismatch: got ",
        f"{server.url}/long/w": f"too long: more than {size} bytes",
        f"{server.url}/stall/w": "timed out: no data for 0.3 s",
        "http://127.0.0.1:1/w": "refused",
    }
    start = time.monotonic()
    with pytest.raises(FetchError, match="model.weights.h5 could not be fetched") as caught:
        pretrained.locate(remote(tmp_path, *reasons))
    assert time.monotonic() - start < 4
    lines = str(caught.value).splitlines()[1:]
    for line, (url, reason) in zip(lines, reasons.items(), strict=True):
        assert line.startswith(f"  {url}: ") and reason in line
    assert files_under(cache) == []


def test_urls_of_files_are_refused(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(WEIGHTS)
    with pytest.raises(ManifestError, match=r"urls\[0\] is 'file:.*expected an http or https URL"):
        pretrained.locate(remote(tmp_path, source.as_uri()))


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_wrong_timeout(tmp_path, server, monkeypatch, text):
    monkeypatch.setenv("ZOO_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"ZOO_TIMEOUT is '{text}'"):
        pretrained.locate(remote(tmp_path, f"{server.url}/good/w"))


def test_an_altered_cache_is_repaired(tmp_path, server):
    folder = remote(tmp_path, f"{server.url}/good/w")
    path = pretrained.locate(folder).path("model.weights.h5")
    path.write_bytes(b"x" + WEIGHTS[1:])
    assert "sha256" in pretrained.verify(pretrained.info(folder))[0]
    assert pretrained.locate(folder).path("model.weights.h5").read_bytes() == WEIGHTS
    assert len(server.asked) == 2


def test_offline_names_file_place_and_variable(tmp_path, server, cache, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(FetchError, match="model.weights.h5 has to be downloaded") as caught:
        pretrained.locate(remote(tmp_path, f"{server.url}/good/w"))
    assert str(cache) in str(caught.value) and "ZOO_OFFLINE=1" in str(caught.value)
    assert server.asked == []


def test_home_follows_the_environment(tmp_path, monkeypatch):
    assert pretrained.home() == tmp_path / "cache"
    monkeypatch.delenv("ZOO_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert pretrained.home() == tmp_path / "xdg" / "deformation-zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert pretrained.home() == Path.home() / ".cache" / "deformation-zoo"


def test_an_unwritable_cache(tmp_path, server, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(
        FetchError, match="cannot write to the cache folder .*set ZOO_HOME"
    ) as error:
        pretrained.locate(remote(tmp_path, f"{server.url}/good/w"))
    assert str(cache) in str(error.value)


def test_threads_and_processes_fetch_at_once(tmp_path, server, cache):
    folder = remote(tmp_path, f"{server.url}/corrupt/w", f"{server.url}/good/w")
    code = "import sys, pretrained; pretrained.locate(sys.argv[1])"
    workers = [subprocess.Popen([sys.executable, "-c", code, folder], cwd=ROOT) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        presets = list(pool.map(pretrained.locate, [folder] * 8))
    assert [worker.wait(30) for worker in workers] == [0, 0, 0]
    assert {preset.path("model.weights.h5").read_bytes() for preset in presets} == {WEIGHTS}
    assert len(files_under(cache)) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(tmp_path, server, monkeypatch, capsys, terminal):
    data = bytes(1_500_000)
    server.files["/good/big"] = data
    files = {"model.weights.h5": entry(data, f"{server.url}/good/big")}
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    pretrained.locate(place(tmp_path, manifest(files=files), weights=None))
    assert ("1.5 of 1.5 MB" in capsys.readouterr().err) is terminal


# --- the hub -------------------------------------------------------------------------------------


def publish(server, revision, folder="", **changes):
    content = manifest(**{"files": {"model.weights.h5": entry(WEIGHTS)}, **changes})
    base = f"/owner/repo/resolve/{revision}{folder}"
    server.files[f"{base}/preset.json"] = text(content).encode()
    server.files[f"{base}/model.weights.h5"] = WEIGHTS
    return f"{base}/preset.json"


def test_hub_branches_follow_and_pins_stay(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    branch, pin = publish(server, "main"), publish(server, PIN)
    for handle in ("hf://owner/repo", f"hf://owner/repo@{PIN}"):
        preset = pretrained.locate(handle)
        assert preset.path("model.weights.h5").read_bytes() == WEIGHTS
        assert pretrained.verify(preset) == []
    publish(server, "main", summary="new")
    publish(server, PIN, summary="new")
    assert pretrained.info("hf://owner/repo").manifest["summary"] == "new"
    assert "summary" not in pretrained.info(f"hf://owner/repo@{PIN}").manifest
    assert (server.asked.count(branch), server.asked.count(pin)) == (2, 1)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert pretrained.locate("hf://owner/repo@main").manifest["summary"] == "new"
    with pytest.raises(FetchError, match="preset.json has to be downloaded .*ZOO_OFFLINE"):
        pretrained.locate("hf://owner/repo@other")


def test_hub_folders_and_slashed_revisions(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    publish(server, "refs%2Fpr%2F1", "/sub/folder")
    preset = pretrained.locate("hf://owner/repo/sub/folder@refs/pr/1")
    assert preset.path("model.weights.h5").read_bytes() == WEIGHTS


def test_a_hub_that_fails(server, monkeypatch, cache):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(FetchError, match="resolve/main/preset.json: 404"):
        pretrained.info("hf://owner/repo")
    address = publish(server, "main")
    pretrained.info("hf://owner/repo")
    kept = files_under(cache)
    server.files[address] = b'{"format": 1}'
    with pytest.raises(ManifestError, match="http.*preset.json: model is missing"):
        pretrained.info("hf://owner/repo")
    del server.files[address]
    with pytest.warns(UserWarning, match="copy in the cache is used"):
        assert pretrained.info("hf://owner/repo").name == "toy.small"
    assert files_under(cache) == kept


@pytest.mark.parametrize("handle", ["owner", "owner/..", "owner/repo@../..", "a/b@", "a/b/?x"])
def test_a_malformed_hub_handle(handle):
    with pytest.raises(ValueError, match="expected hf://owner/repo"):
        pretrained.info(f"hf://{handle}")


# --- writing and verifying ----------------------------------------------------------------------


def write(folder, **more):
    content = manifest(files={"golden.npz": {"rtol": 1e-4}})
    files = {
        "model.weights.h5": lambda path: path.write_bytes(WEIGHTS),
        "golden.npz": lambda path: path.write_bytes(GOLDEN),
        "preview.png": lambda path: path.write_bytes(b"picture"),
    }
    return pretrained.write(folder, content, {**files, **more.pop("files", {})}, **more)


def test_write_then_load(tmp_path):
    (tmp_path / "recipe.py").write_text("print()")
    preset = write(tmp_path / "toy" / "small", files={"train.py": tmp_path / "recipe.py"})
    assert preset == pretrained.locate("toy.small", [tmp_path])
    assert preset.manifest["files"] == {
        "model.weights.h5": entry(WEIGHTS),
        "golden.npz": entry(GOLDEN, rtol=1e-4),
        "preview.png": entry(b"picture"),
        "train.py": entry(b"print()"),
        "card.md": entry((preset.folder / "card.md").read_bytes()),
    }
    names = "card.md golden.npz model.weights.h5 preset.json preview.png train.py"
    assert " ".join(path.name for path in files_under(preset.folder)) == names
    assert "![preview]" in preset.path("card.md").read_text()
    assert preset.path("preset.json").read_text().endswith("}\n")
    assert pretrained.verify(preset) == []


def broken(path):
    path.write_bytes(b"half")
    raise RuntimeError("no more disk")


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"golden.npz": broken}, RuntimeError),
        ({"golden.npz": lambda path: None}, FileNotFoundError),
        ({"golden.npz": "not/there"}, FileNotFoundError),
        ({"model.pth": lambda path: path.write_bytes(b"pickle")}, ManifestError),
        ({"../escape": lambda path: path.write_bytes(b"x")}, ManifestError),
    ],
)
def test_a_failing_write_leaves_what_was(tmp_path, files, error):
    folder = tmp_path / "mine"
    with pytest.raises(error):
        write(folder, files=files)
    assert list(tmp_path.iterdir()) == []
    write(folder)
    before = {path: path.read_bytes() for path in files_under(tmp_path)}
    with pytest.raises(error):
        write(folder, files=files, overwrite=True)
    assert {path: path.read_bytes() for path in files_under(tmp_path)} == before


def test_overwriting_is_asked_for(tmp_path):
    preset = write(tmp_path / "mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write(preset.folder)
    write(preset.folder, files={"golden.npz": lambda p: p.write_bytes(b"new")}, overwrite=True)
    assert preset.path("golden.npz").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a preset"):
        write(tmp_path / "thesis", overwrite=True)


def test_an_interrupted_swap_puts_the_old_one_back(tmp_path, monkeypatch):
    preset, rename = write(tmp_path / "mine"), os.rename

    def fail_on_new(source, target):
        if str(source).endswith(".new"):
            raise OSError("interrupted")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_on_new)
    with pytest.raises(OSError, match="interrupted"):
        write(preset.folder, overwrite=True)
    assert pretrained.verify(pretrained.locate(preset.folder)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_write_checks_the_manifest(tmp_path):
    weights = {"model.weights.h5": lambda path: path.write_bytes(WEIGHTS)}
    with pytest.raises(ManifestError, match="config cannot be written as JSON"):
        pretrained.write(tmp_path / "a", manifest(config={"width": {1, 2}}), weights)
    with pytest.raises(ManifestError, match="'golden.npz', neither given nor with urls"):
        listed = manifest(files={"golden.npz": entry(GOLDEN)})
        pretrained.write(tmp_path / "a", listed, weights)
    listed = manifest(files={"golden.npz": entry(GOLDEN, "https://host/golden.npz")})
    preset = pretrained.write(tmp_path / "a", listed, weights)
    assert pretrained.verify(preset) == []


def test_verify_names_each_problem(tmp_path):
    preset = write(tmp_path / "mine")
    path = preset.path("model.weights.h5")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    preset.path("card.md").write_text("# Mine\n")
    preset.path("golden.npz").unlink()
    problems = " / ".join(pretrained.verify(preset))
    for words in ("weights.h5 has sha256", "golden.npz is missing", "card.md is not the card"):
        assert words in problems
    preset.path("card.md").unlink()
    assert "card.md is missing" in " / ".join(pretrained.verify(preset))


def test_nothing_heavy_is_imported():
    heavy = {"numpy", "keras", "tensorflow", "zoo", "registry", "urllib.request"}
    code = f"import sys, pretrained; pretrained.find(); print(sorted({heavy!r} & set(sys.modules)))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True).strip() == "[]"


def test_the_presets_of_the_package_are_sound():
    for preset in pretrained.find():
        assert pretrained.verify(preset) == [], preset.name
