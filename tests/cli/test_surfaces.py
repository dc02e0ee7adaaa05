"""`zoo mesh | evaluate`, on small cases."""

import json

import numpy as np

import zoo


def test_mesh_and_evaluate(run, preset, scan, tmp_path):
    out = tmp_path / "mesh.ply"
    status, said, _ = run("mesh", preset, "--out", out, "--resolution", 32)
    assert status == 0 and "faces" in said and len(zoo.Scan.read(out)) > 100
    trimmed = tmp_path / "trimmed.obj"
    half = tmp_path / "half.npy"
    points = zoo.Scan.read(out).points
    np.save(half, points[points[:, 0] > 0])
    run("mesh", preset, "--out", trimmed, "--resolution", 32, "--trim", half)
    assert len(zoo.Scan.read(trimmed)) < len(points)
    words = ("evaluate", preset, scan, "--resolution", 32, "--scan", scan, "--json")
    results = json.loads(run(*words)[1])
    assert results["benchmark_scan_chamfer"] > 0
    assert "hausdorff" in run(*words[:-1])[1]


def test_the_default_preset_is_named_and_samples_are_passed_on(run, scan, monkeypatch):
    class Model:
        def evaluate(self, truth, **options):
            return {"samples": options["samples"]}

    loaded = []
    monkeypatch.setattr("zoo.api.load", lambda name: loaded.append(name) or Model())
    status, out, err = run("evaluate", "igr", scan, "--json")
    assert status == 0 and json.loads(out) == {"samples": 100_000}
    assert loaded[0].startswith("igr.") and loaded[0] in err
    _, out, err = run("evaluate", "igr.knot", scan, "--json", "--samples", 7)
    assert json.loads(out) == {"samples": 7} and not err
