"""`zoo list | show | verify`."""

import json

import pytest

import zoo


def test_list(run):
    status, out, _ = run("list")
    assert status == 0 and "igr.knot" in out and "method" in out
    rows = json.loads(run("list", "igr*", "--json", "--task", "surface")[1])
    assert {"igr", "igr.knot"} <= {row["name"] for row in rows}
    only = json.loads(run("list", "--pretrained", "--json")[1])
    assert {row["kind"] for row in only} == {"preset"}
    status, out, err = run("list", "nothing*")
    assert status == 1 and not out and "nothing matches" in err


def test_list_by_licence(run):
    rows = json.loads(run("list", "--licence", "cc0-*", "--json")[1])
    assert {row["kind"] for row in rows} == {"preset"}
    assert {row["name"] for row in rows} == set(zoo.find(licence="CC0-1.0"))
    names = zoo.find("igr.*", licence="CC*")
    assert "igr.knot" in names and "igr.bunny" not in names
    assert "dirvnet.chessboard2d" not in zoo.find(licence="CC*", task="surface")
    assert zoo.find(licence="") == []
    status, out, err = run("list", "igr", "--licence", "GPL*")
    assert status == 1 and not out and "nothing matches 'igr' under the licence 'GPL*'" in err
    with pytest.raises(TypeError, match="licence: got 3, expected a wildcard"):
        zoo.find(licence=3)


def test_show(run, preset):
    assert "# igr" in run("show", "igr")[1]
    assert "A small one." in run("show", preset)[1]
    assert json.loads(run("show", "igr", "--json")[1])["task"] == "surface"
    assert json.loads(run("show", "igr.knot", "--json")[1])["tag"] == "knot"
    assert "  - width = 64: hidden units of each layer\n" in run("show", "igr")[1]
    listed = json.loads(run("show", "igr", "--json")[1])["arguments"]
    skips = {"name": "skips", "type": "Sequence[int]", "default": []}
    assert any(skips.items() <= each.items() for each in listed)
    status, _, err = run("show", "irg")
    assert status == 1 and "igr" in err and err.startswith("zoo: ")


def test_verify(run, preset):
    assert run("verify", preset)[0] == 0
    weights = preset / "model.weights.h5"
    weights.write_bytes(weights.read_bytes() + b"x")
    status, out, _ = run("verify", preset, "--json")
    assert status == 1 and "model.weights.h5" in out
