"""Readers of published benchmarks of bodies, meshes in correspondence. None downloads anything.

Each returns a sequence of pairs that are read when they are asked for, with all known partners as
landmarks: they score a registration, and are not to be shown to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np

from zoo.data.pair import LazyPairs, Pair
from zoo.data.scan import Scan
from zoo.io import existing
from zoo.ops.arguments import checked, one_of

FAUST_POSES = 10  # of each subject, whose meshes follow each other
WHO = ("within", "across", "all")
SHREC19_PAIRS = "PAIRS_list_SHREC19_connectivity.txt"
SUFFIXES = (".obj", ".off", ".ply")


@checked()
def faust(
    folder: str | Path,
    who: str = "within",
    scans: bool = False,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> LazyPairs:
    """Training bodies of MPI FAUST: ten subjects in ten poses each.

    Data: faust-leaderboard.is.tuebingen.mpg.de, after registration; for research only. Format:
    `training/registrations/tr_reg_000.ply` to `tr_reg_099.ply`, whose vertices correspond, and the
    scans that they were fitted to, `training/scans/tr_scan_000.ply` and so on.

    Args:
        folder: that holds `training`, or that folder itself.
        who: pairs "within" a subject, "across" subjects, or "all" of them; each in both directions.
        scans: register the scans; the vertices of the registrations are landmarks either way.
        pairs: numbers `(fixed, moving)` of the bodies instead; `who` does not count then.

    Raises:
        FileNotFoundError: for a folder without registrations, or a body that is missing.
        ValueError: for an unknown `who`.
    """
    one_of("who", who, WHO)
    folder = Path(folder)
    training = folder / "training" if (folder / "training").is_dir() else folder
    found = sorted(training.glob("registrations/tr_reg_[0-9][0-9][0-9].ply"))
    if not found:
        raise FileNotFoundError(
            f"folder: no registrations/tr_reg_*.ply in {str(training)!r}, where FAUST has them."
        )
    if pairs is None:
        numbers = [int(path.stem[-3:]) for path in found]
        pairs = [
            (fixed, moving)
            for fixed, moving in permutations(numbers, 2)
            if who == "all" or (fixed // FAUST_POSES == moving // FAUST_POSES) == (who == "within")
        ]
    return LazyPairs([partial(_faust_pair, training, *pair, scans) for pair in pairs])


def faust_challenge(folder: str | Path, who: str = "within") -> LazyPairs:
    """The test pairs of MPI FAUST, whose partners are not public.

    Data: see `faust`. Format: `test/scans/test_scan_000.ply` and so on, and in
    `test/challenge_pairs` the lists `intra_challenge.txt` and `inter_challenge.txt`, a pair of
    numbers a line. A correspondence is asked for from the first scan, which moves, to the second.

    Args:
        folder: that holds `test`, or that folder itself.
        who: pairs "within" a subject (the intra-subject challenge) or "across" subjects.

    Raises:
        FileNotFoundError: if the list is missing, or a scan that it names.
        ValueError: for an unknown `who`, or a line without two numbers.
    """
    one_of("who", who, WHO[:2])
    folder = Path(folder)
    test = folder / "test" if (folder / "test").is_dir() else folder
    name = {"within": "intra_challenge.txt", "across": "inter_challenge.txt"}[who]
    listed = _listed(existing(test / "challenge_pairs" / name, "folder"))

    def read(moving: int, fixed: int) -> Pair:
        bodies = _bodies(test / "scans", "test_scan", fixed, moving)
        return Pair(*bodies, name=f"{moving:03d}_{fixed:03d}")

    return LazyPairs([partial(read, *numbers) for numbers in listed])


@checked(first_vertex=(0, 1))
def shrec19_humans(folder: str | Path, first_vertex: int | None = None) -> LazyPairs:
    """Pairs of SHREC'19, "Matching humans with different connectivity".

    Data: profs.scienze.univr.it/~marin/shrec19; its shapes come from other data sets and keep
    their terms. Format: a list of pairs `PAIRS_list_SHREC19_connectivity.txt`, meshes `1.obj`,
    `2.obj` and so on (or .off, .ply) and, for pairs whose partners are known, `1_2.txt` or
    `1_2.map`: for each vertex of shape 1 the number of its partner in shape 2. Below the folder
    they may lie where they want. Shape 1 moves.

    Args:
        folder: that holds all this.
        first_vertex: the number of the first vertex in the partner files, 0 or 1; None tells it
            from those that occur.

    Raises:
        FileNotFoundError: if the list, or a mesh that it names, is missing.
        ValueError: for a line without two numbers; and, when a pair is read, for partners that do
            not fit its meshes.
    """
    folder = Path(folder)
    lists = sorted(folder.rglob(SHREC19_PAIRS))
    if not lists:
        raise FileNotFoundError(f"folder: no {SHREC19_PAIRS!r} below {str(folder)!r}.")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), reverse=True):
        files[path.name.lower()] = path

    def read(moving: int, fixed: int) -> Pair:
        bodies = [Scan.read(_mesh(files, number)) for number in (fixed, moving)]
        name, partners = f"{moving}_{fixed}", None
        for suffix in (".txt", ".map"):
            partners = files.get(name + suffix, partners)
        if partners is None:
            return Pair(*bodies, name=name)
        rows = _partners(partners, *map(len, bodies), first_vertex)
        return Pair(
            *bodies,
            fixed_landmarks=bodies[0].points[rows],
            moving_landmarks=bodies[1].points,
            name=name,
        )

    return LazyPairs([partial(read, *numbers) for numbers in _listed(lists[0])])


def _faust_pair(training: Path, fixed: int, moving: int, scans: bool) -> Pair:
    fitted = bodies = _bodies(training / "registrations", "tr_reg", fixed, moving)
    if scans:
        bodies = _bodies(training / "scans", "tr_scan", fixed, moving)
    return Pair(
        *bodies,
        fixed_landmarks=fitted[0].points,
        moving_landmarks=fitted[1].points,
        name=f"{moving:03d}_{fixed:03d}",
    )


def _bodies(folder: Path, kind: str, *numbers: int) -> list[Scan]:
    return [Scan.read(existing(folder / f"{kind}_{number:03d}.ply")) for number in numbers]


def _listed(path: Path) -> list[tuple[int, int]]:
    """Two numbers of each line, whatever stands between them."""
    listed = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        found = re.findall(r"\d+", line)
        if len(found) != 2:
            raise ValueError(f"{path.name}, line {number}: two numbers expected, not {line!r:.60}.")
        listed.append((int(found[0]), int(found[1])))
    return listed


def _mesh(files: dict[str, Path], number: int) -> Path:
    for suffix in SUFFIXES:
        if f"{number}{suffix}" in files:
            return files[f"{number}{suffix}"]
    raise FileNotFoundError(f"folder: no mesh {number}.obj, which the list of pairs names.")


def _partners(path: Path, fixed: int, moving: int, first_vertex: int | None) -> np.ndarray:
    """Row of the fixed mesh for each vertex of the moving one."""
    try:
        numbers = np.array(path.read_text(encoding="utf-8").split(), np.float64).astype(np.int64)
    except ValueError as error:
        raise ValueError(f"{path.name} must hold numbers of vertices alone.") from error
    if len(numbers) != moving:
        raise ValueError(
            f"{path.name} must have a number for each of the {moving} vertices, not {len(numbers)}."
        )
    if first_vertex is None:
        zero, beyond = numbers.min() == 0, numbers.max() == fixed
        if zero == beyond:
            raise ValueError(
                f"{path.name} does not tell whether vertices are counted from 0 or 1 (they run "
                f"from {numbers.min()} to {numbers.max()} of {fixed}); give first_vertex."
            )
        first_vertex = int(beyond)
    rows = numbers - first_vertex
    if rows.min() < 0 or rows.max() >= fixed:
        raise ValueError(
            f"{path.name} must name vertices {first_vertex} to {fixed - 1 + first_vertex}, not "
            f"{numbers.min()} to {numbers.max()}."
        )
    return rows
