"""What all commands have in common: one line of reason, exit status, quiet."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import zoo
from zoo.cli import main, registrations, shared, training


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("mesh", "igr.knot", "--out", "mesh.docx"), "--out must end in"),
        (("mesh", "igr.nothing", "--out", "mesh.ply"), "igr.nothing"),
        (("evaluate", "igr.knot", "absent.ply"), "no file"),
        (("train", "igr", "absent.ply", "--out", "folder"), "no file"),
        (("register", "absent.nii.gz", "SCAN", "--out", "folder"), "absent.nii.gz"),
        (("register", "SCAN", "SCAN", "-m", "afine", "--out", "folder"), "affine"),
        (("warp", "absent.nii.gz", "absent.h5", "--out", "a.nii.gz"), "absent.h5"),
        (("jacobian", "SCAN", "--out", "a.nii.gz"), "scan.xyz"),
        (("train", "igr.knot", "SCAN", "--out", "folder", "--set", "width=3"), "--set"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "width"), "NAME=VALUE"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "activation=sine"), "activation"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "widht=3"), "widht"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "width=wide"), "zoo: "),
        (("train", "igr", "SCAN", "--out", "folder", "--epochs", "0"), "--epochs"),
        (("train", "affine", "SCAN", "--out", "folder"), "use zoo register"),
        (("train", "divroc", "pairs.csv", "--out", "folder"), "use zoo register"),
        (("train", "affine+dirvnet", "pairs.csv", "--out", "folder"), "one by one"),
        (("train", "dirvnet", "SCAN", "--out", "folder"), "a .csv of pairs or a folder"),
        (("train", "dirvnet", "absent.csv", "--out", "folder"), "data: no file or folder"),
        (("train", "igr", "SCAN", "--out", "folder", "--batch-size", "2"), "for registrations"),
        (("train", "igr", "SCAN", "--out", "folder", "--seed", "-1"), "--seed"),
        (("train", "igr", "SCAN", "--out", "folder", "--learning-rate", "nan"), "--learning-rate"),
        (("train", "igr", "SCAN", "--out", "folder", "--learning-rate", "0"), "--learning-rate"),
        (("train", "igr", "SCAN", "--out", "folder", "--steps-per-epoch", "0"), "--steps-per"),
        (("train", "igr", "SCAN", "--out", "folder", "--loss-weight", "normals"), "TERM=NUMBER"),
        (("train", "igr", "SCAN", "--out", "folder", "--loss-weight", "normal=1"), "normal"),
        (("train", "igr", "SCAN", "--out", "my scan"), "--out: tag is 'my scan'"),
        (("train", "igr", "SCAN", "--out", "..", "--overwrite"), "--out: tag is '..'"),
        (("train", "igr", "SCAN", "--out", "x" * 230), "--out: the name"),
        (("train", "igr", "SCAN", "--out", "folder", "--set", "centred=maybe"), "true or false"),
        (("register", "SCAN", "SCAN", "-m", "affine+", "--out", "folder"), "lacks a method"),
        (("register", "SCAN", "SCAN", "-m", "affine+afine", "--out", "folder"), "affine"),
        (("train", "igr", "SCAN", "--out", "SCAN/inside"), "no folder"),
        (("mesh", "affine", "--out", "mesh.ply"), "'registration'"),
        (("evaluate", "igr", "pairs.csv"), "'registration': affine"),
        (("evaluate", "igr.knot", "SCAN", "--set", "width=3"), "--set"),
        (("evaluate", "igr.knot", "SCAN", "--samples", "0"), "--samples"),
        (("register", "SCAN", "SCAN", "-m", "igr", "--out", "folder"), "'registration': affine"),
        (("register", "SCAN", "SCAN", "--out", "SCAN/inside"), "no folder"),
        (("register", "SCAN", "SCAN", "--out", "folder", "--set", "knid=rigid"), "knid"),
        (("register", "SCAN", "SCAN", "--out", "folder", "--set", "levels=many"), "--set"),
        (("register", "SCAN", "SCAN", "--out", "folder", "--start", "absent.h5"), "absent.h5"),
        (("jacobian", "SCAN", "--out", "a.png"), "--out must end in"),
        (("view", "SCAN", "SCAN", "--out", "a.jpg"), ".png"),
    ],
)
def test_mistakes_give_one_line_and_no_files(run, scan, tmp_path, monkeypatch, words, reason):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    status, out, err = run(*(word.replace("SCAN", str(scan)) for word in words))
    assert status == 1 and not out
    assert reason in err and err.startswith("zoo: ") and err.count("\n") == 1
    assert not list((tmp_path / "empty").iterdir())


def test_numbers_that_are_not_finite(capsys):
    results = {"a": math.nan, "b": [np.float64("inf"), 1.5], "c": {"d": 2}}
    assert json.loads(shared.dumps(results)) == {"a": None, "b": [None, 1.5], "c": {"d": 2}}
    shared.print_numbers({"a": math.nan}, True)
    assert json.loads(capsys.readouterr().out) == {"a": None}
    assert registrations._mean("dice", [1.0, math.nan, 2.0]) == 1.5
    assert "dice is undefined for 1 of 3" in capsys.readouterr().err
    assert math.isnan(registrations._mean("dice", [math.nan]))


def test_ctrl_c(run, scan, tmp_path, monkeypatch):
    def interrupted(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "check_folder", interrupted)
    monkeypatch.setattr(registrations, "check_folder", interrupted)
    status, _, err = run("train", "igr", scan, "--out", tmp_path / "folder")
    assert status == 130 and err == "zoo: interrupted; the same command resumes\n"
    status, _, err = run("register", scan, scan, "--out", tmp_path / "folder")
    assert status == 130 and err == "zoo: interrupted\n"


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and zoo.__version__ in capsys.readouterr().out


def test_what_imports_print_is_kept_and_shown_on_failure(capfd):
    with shared.silent_import():
        os.write(2, b"build options")
    assert not capfd.readouterr().err
    with pytest.raises(ImportError), shared.silent_import():
        os.write(2, b"no such library")
        raise ImportError("broken")
    assert "no such library" in capfd.readouterr().err


def test_commands_are_quiet_and_listing_needs_no_tensorflow(shift, tmp_path):
    code = "import sys; from zoo.cli import main; status = main(sys.argv[1:]); "

    def fresh(check, *words):
        command = [sys.executable, "-c", code + check, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    result = fresh("sys.exit(status)", "jacobian", shift, "--out", tmp_path / "det.nii.gz")
    assert result.returncode == 0 and not result.stderr
    absent = "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    mistake = ("train", "igr", "absent.ply", "--out", tmp_path / "folder")
    word = ("train", "igr", "scan.ply", "--out", tmp_path / "folder", "--set", "widht=3")
    value = ("register", "a.ply", "b.ply", "--out", tmp_path / "folder", "--set", "levels=many")
    named = (("list",), ("show", "igr.knot"), ("show", "igr"), ("verify", "igr.knot"))
    for words in (*named, mistake, word, value):
        assert fresh(absent, *words).returncode == 0
