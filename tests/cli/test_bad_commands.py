"""Command lines that cannot be right: none is accepted, none hangs, and each is told in one line.

Every line is made of one that works, with one word exchanged; which of the many exchanges are
tried is drawn by a seed.
"""

import itertools
import os
import random
import signal
import time
import warnings

import numpy as np
import pytest

import zoo
from zoo.cli import main
from zoo.data import shapes
from zoo.transform import Affine

SEED, COUNT, SECONDS = 13, 110, 20
WHOLE = ("x", "", "1.5", "nan", "1e400", "0x10", "0", "-1", "9" * 30)
NUMBER = ("x", "", "nan", "inf", "-inf", "0", "-1", "1,5")
FLAG = ("2", "None", "maybe", "", "nan", "[true]", "0.0")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of what the lines name: some files that are good, and some that are not."""
    folder = tmp_path_factory.mktemp("bad")
    scan = shapes.sphere(200)
    np.savetxt(folder / "scan.xyz", np.concatenate([scan.points, scan.normals], axis=1))
    array = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    for name in ("fixed", "moving"):
        zoo.Image.from_array(array).write(folder / f"{name}.nii.gz")
    (folder / "pairs.csv").write_text("fixed,moving\nfixed.nii.gz,moving.nii.gz\n")
    (folder / "images").mkdir()
    for number in range(3):
        zoo.Image.from_array(array).write(folder / "images" / f"{number}.nii.gz")
    Affine(np.eye(2), [1.0, 0.0]).save(folder / "shift.h5")
    noise = np.random.default_rng(1).bytes(400)
    for suffix in (".xyz", ".ply", ".obj", ".nii.gz", ".nii", ".png", ".csv", ".h5", ".npz"):
        (folder / f"noise{suffix}").write_bytes(noise)
        (folder / f"empty{suffix}").write_bytes(b"")
        os.mkfifo(folder / f"pipe{suffix}")
    (folder / "nothing").mkdir()
    (folder / "a_file").write_text("text")
    (folder / "broken").mkdir()
    (folder / "broken" / "preset.json").write_text("{")
    return folder


LINES = {
    "surface": "train igr scan.xyz --out OUT --epochs 1 --steps-per-epoch 1 --set width=8",
    "network": "train dirvnet images --out OUT --epochs 1 --set levels=1 --set units=1",
    "register": "register fixed.nii.gz moving.nii.gz -m affine --out OUT --epochs 1",
    "evaluate": "evaluate igr.knot scan.xyz --samples 100 --resolution 16",
    "pairs": "evaluate affine pairs.csv",
    "mesh": "mesh igr.knot --out OUT.ply --resolution 16",
    "warp": "warp moving.nii.gz shift.h5 --out OUT.nii.gz --like fixed.nii.gz",
    "jacobian": "jacobian shift.h5 --out OUT.nii.gz --like fixed.nii.gz",
    "view": "view fixed.nii.gz moving.nii.gz --out OUT.png",
    "show": "show igr.knot",
    "verify": "verify igr.knot",
    "list": "list igr",
}

# What the words of a line are called, where no option stands before them.
ROLES = {"igr": "model", "igr.knot": "preset", "scan.xyz": "data", "images": "data"}


class Hangs(BaseException):
    """Nothing on the way catches it."""


def exchanges():
    """All exchanges: the name of a line, the words that replace or extend it, and the bad word."""
    found = []

    def option(lines, name, values):
        found.extend((line, (name, value)) for line in lines.split() for value in values)

    def place(line, word, kinds):
        for kind, suffix in itertools.product(("missing", "noise", "empty", "pipe"), kinds):
            found.append((line, {word: f"{kind}{suffix}"}))
        found.append((line, {word: "nothing"}))

    option("surface network register", "--epochs", WHOLE)
    option("surface network", "--steps-per-epoch", WHOLE)
    option("surface network register", "--seed", [v for v in WHOLE if v != "0"])
    option("surface network", "--learning-rate", NUMBER)
    option("network", "--batch-size", WHOLE)
    option("network", "--shape", ("x", "0x16", "-4x4", "16", "16x16x16", "axb", "", "1.5x2"))
    option("network", "--validation", ("0", "1", "-0.5", "2", "nan", "missing.csv", "0.01", ""))
    option("network", "--align", ("left", "", "WORLD"))
    option("network", "--labels", ("missing", "a_file", "nothing", "pipe.csv"))
    weights = (
        "",
        "smoothness",
        "smoothness=",
        "smoothness=nan",
        "smoothness=-1",
        "nothing=1",
        "=1",
    )
    option("surface network", "--loss-weight", weights)
    option("evaluate mesh", "--resolution", WHOLE)
    option("evaluate", "--samples", WHOLE)
    option("evaluate", "--scan", ("missing.xyz", "noise.ply", "pipe.xyz", "nothing"))
    option("mesh", "--trim", ("missing.xyz", "noise.xyz", "pipe.ply"))
    option("warp", "--outside", ("x", "", "nan?", "1,0"))
    option("register view", "--fixed-landmarks", ("missing.csv", "noise.csv", "pipe.csv"))
    option("register view", "--moving-mask", ("missing.nii.gz", "noise.nii.gz", "pipe.nii.gz"))
    option("register", "--start", ("missing.h5", "noise.h5", "empty.h5", "pipe.h5", "nothing"))
    option("view", "--transform", ("missing.h5", "noise.h5", "pipe.h5"))
    option("warp jacobian", "--like", ("missing.nii.gz", "noise.nii", "pipe.nii", "scan.xyz"))
    option("list", "--dims", ("x", "", "2.5"))
    option(" ".join(LINES), "--nonsense", ("1",))

    settings = [f"velocity={value}" for value in FLAG]
    settings += [f"levels={value}" for value in ("x", "1.5", "nan", "0", "-1", "[1]", "", "1e9")]
    settings += ["damping=nan", "damping=-1", "start=nowhere", "nothing=1", "levels", "=1", ""]
    settings += ["data_limits=[1]", "data_limits=[2, 1]", "data_limits=1", "labels=[a]"]
    option("network", "--set", settings)
    settings = [f"centred={value}" for value in FLAG]
    settings += [f"beta={value}" for value in NUMBER]
    settings += [f"depth={value}" for value in ("0", "-1", "x", "2.5", "1e12")]
    settings += [
        "skips=[99]",
        "skips=x",
        "activation=nothing",
        "Width=3",
        "name=3",
        "dtype=float64",
    ]
    option("surface", "--set", settings)
    option("register", "--set", ("loss=nothing", "levels=0", "kind=3", "trim=7", "affine.loss=1"))

    place("surface", "scan.xyz", (".xyz", ".ply", ".obj", ".npz", ".unknown"))
    place("network", "images", (".csv",))
    for line in ("register", "view"):
        place(line, "fixed.nii.gz", (".nii.gz", ".png", ".ply", ".unknown"))
    place("pairs", "pairs.csv", (".csv",))
    place("warp", "moving.nii.gz", (".nii.gz", ".ply", ".csv"))
    for line in ("warp", "jacobian"):
        place(line, "shift.h5", (".h5", ".nii.gz"))

    names = (
        "nothing",
        "",
        "igr.nothing",
        "./broken",
        "./nothing",
        "hf://x",
        "+",
        "a+",
        "../..",
        "*",
    )
    for line, word in (("surface", "igr"), ("mesh", "igr.knot"), ("show", "igr.knot")):
        found += [(line, {word: name}) for name in (*names, "broken.keras")]
    found += [("verify", {"igr.knot": name}) for name in names]
    found += [("register", {"affine": name}) for name in ("igr", "chain+", "affine+igr", "")]
    found += [("surface", {"igr": "affine"}), ("network", {"dirvnet": "affine"})]
    found += [("mesh", {"igr.knot": "dirvnet.brain2d"}), ("list", {"igr": "nothing*"})]
    for name in ("my scan", "scan?", "a_file", "a_file/x", "x" * 250, ".hidden", "", "é"):
        found += [("surface", {"OUT": name}), ("network", {"OUT": name})]
    found += [("register", {"OUT": name}) for name in ("a_file", "a_file/x", "images", "x" * 300)]
    found += [("mesh", {"OUT.ply": name}) for name in ("OUT.xyz", "OUT", "a_file/x.ply", "")]
    found += [("view", {"OUT.png": name}) for name in ("OUT.gif", "OUT", "a_file/x.png", "")]
    found += [("warp", {"OUT.nii.gz": n}) for n in ("OUT.txt", "OUT", "a_file/x.nii", "")]
    found += [("jacobian", {"OUT.nii.gz": n}) for n in ("OUT.png", "OUT", "a_file/x.nii", "")]
    return found


def command(line, exchange):
    """The words of a line with an exchange, and those that its message may name."""
    words = LINES[line].split()
    if isinstance(exchange, dict):
        [(old, new)] = exchange.items()
        place = words.index(old)
        words[place] = new
        before = words[place - 1]
        # Of an empty word, or of one that is a pattern, there is little to name.
        role = before.lstrip("-") if before.startswith("-") else ROLES.get(old, "nothing")
        return words, [new or "''", role, *new.split("+")]
    name, value = exchange
    if name in words and name not in ("--set", "--loss-weight"):
        words[words.index(name) + 1] = value
    else:
        words += [name, value]
    return words, [value.partition("=")[2] or value, name.lstrip("-"), value.partition("=")[0]]


def judged(words, names, folder, capsys):
    """What became of a command: "clear", or what is wrong with it, and what it said."""

    def hang(signum, frame):
        raise Hangs

    before = set(folder.iterdir())
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = main(words)
    except SystemExit as error:
        status = error.code
    except Hangs:
        return "hanging", capsys.readouterr().err
    except Exception as error:
        return "obscure", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    said = capsys.readouterr().err.strip()
    if set(folder.iterdir()) != before:
        return "wrote", said
    if not status:
        return "accepted", said
    last = said.splitlines()[-1] if said else ""
    named = [name for name in names if name and name.replace("-", "_") in last.replace("-", "_")]
    return ("clear" if last.startswith("zoo") and named else "obscure"), last


def test_bad_command_lines(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    drawn = random.Random(SEED).sample(exchanges(), COUNT)
    start, verdicts = time.monotonic(), {}
    for line, exchange in drawn:
        words, names = command(line, exchange)
        verdict, said = judged(words, names, files, capsys)
        verdicts.setdefault(verdict, []).append((" ".join(words), said))
    wrong = {verdict: cases for verdict, cases in verdicts.items() if verdict != "clear"}
    print(f"{len(verdicts['clear'])} of {COUNT} clear, {time.monotonic() - start:.0f} s")
    assert not {"accepted", "hanging", "wrote"} & set(wrong), wrong
    assert len(verdicts["clear"]) >= 0.97 * COUNT, wrong


@pytest.mark.parametrize("line", LINES)
def test_the_lines_that_are_exchanged_are_understood(line):
    assert zoo.cli.parser().parse_args(LINES[line].split())
