"""The data of `zoo train`: a table of pairs, a folder of images, or a folder of clouds."""

from __future__ import annotations

import copy
import csv
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np

from zoo.data.cloud_draws import CloudDraws, DeformedClouds
from zoo.data.image import Image
from zoo.data.pair import LazyPairs, Pair
from zoo.data.pairs import PairDataset, all_pairs, read_table
from zoo.data.scan import READABLE, Scan
from zoo.io.images import image_suffix, read_labels


@dataclass(frozen=True)
class TrainingPairs:
    """What a registration network is trained on.

    Attributes:
        training: batches; of clouds with the attribute `points`, how many are drawn.
        validation: batches of other subjects, or None.
        first: a pair, for checks.
        files: all files that are read.
        label_values: that occur in the label images of `--labels`, without 0.
    """

    training: keras.utils.PyDataset
    validation: keras.utils.PyDataset | None
    first: Pair
    files: Sequence[Path]
    label_values: Sequence[int] = ()

    @property
    def amount(self) -> str:
        """How much there is to learn from."""
        if isinstance(self.training, DeformedClouds):
            return f"{len(self.training.clouds)} clouds"
        return f"{len(self.training.pairs)} pairs"


def read_training_pairs(options) -> TrainingPairs:
    """Reads the data of a training by the options of `zoo train`.

    Args:
        options: `data`, `labels`, `validation`, `batch_size`, `shape`, `align`, `steps_per_epoch`
            and `seed`.

    Raises:
        FileNotFoundError: for files that are missing.
        ValueError: for data that are no pairs, or that cannot be divided as `--validation` asks.
    """
    batches = {
        "batch_size": options.batch_size or 1,
        "shape": options.shape,
        "align": options.align or "world",
        "seed": options.seed,
    }
    data, other = _read(options.data, options.labels), None
    if isinstance(options.validation, float):
        data, other = data.divided(options.validation, options.seed)
    elif options.validation is not None:
        other = _read(options.validation, options.labels)
    training = data.batches(steps=options.steps_per_epoch, **batches)
    validation = None if other is None else other.batches(shuffle=False, **batches)
    first = data.first() if isinstance(data, _CloudFolder) else training.pairs[0]
    if options.shape is not None and len(options.shape) != first.rank:
        raise ValueError(
            f"--shape must have {first.rank} sizes as the images, not {options.shape}."
        )
    # What cannot be put into one batch is told now, not after minutes.
    for dataset in filter(None, (training, validation)):
        dataset[0]
    files = [*data.files, *(other.files if other is not None else ())]
    return TrainingPairs(training, validation, first, files, data.label_values)


def _read(path: Path, labels: Path | None) -> _Folder | _CloudFolder | _Table:
    if not path.is_dir():
        return _Table(path, labels)
    if any(_is_cloud(each) for each in path.iterdir()):
        return _CloudFolder(path, labels)
    return _Folder(path, labels)


def _is_cloud(path: Path) -> bool:
    return path.suffix.lower() in READABLE


def _cloud_options(options: dict) -> dict:
    """Of those of images what batches of clouds have, too."""
    given = [name for name in ("shape", "align") if options.get(name) not in (None, "world")]
    if given:
        raise ValueError(f"--{given[0]} is for pairs of images; these are clouds.")
    names = ("batch_size", "steps", "seed")
    return {name: options[name] for name in names if name in options}


class _CloudFolder:
    """The clouds of a folder, each of which is learned from with a deformed copy of itself."""

    label_values = ()

    def __init__(self, folder: Path, labels: Path | None):
        if labels is not None:
            raise ValueError("--labels goes with a folder of images; this one holds clouds.")
        self.files = sorted(path for path in folder.iterdir() if _is_cloud(path))
        self._clouds = [Scan.read(path) for path in self.files]

    def first(self) -> Pair:
        cloud = self._clouds[0].points
        return Pair(Scan(cloud[::2]), Scan(cloud[1::2]))

    def batches(self, shuffle: bool = True, **options) -> DeformedClouds:
        return DeformedClouds(self._clouds, **_cloud_options(options))

    def divided(self, share: float, seed: int) -> tuple[_CloudFolder, _CloudFolder]:
        """The clouds for training, and the share of them that is held out."""
        count = len(self._clouds)
        held_out = max(1, round(share * count))
        if held_out >= count:
            raise ValueError(f"--validation: {share:g} of {count} clouds leaves none to train on.")
        order = np.random.default_rng(seed).permutation(count)
        parts = []
        for chosen in (sorted(order[held_out:]), sorted(order[:held_out])):
            parts.append(copy.copy(self))
            parts[-1].files = [self.files[k] for k in chosen]
            parts[-1]._clouds = [self._clouds[k] for k in chosen]
        return tuple(parts)


class _Folder:
    """The images of a folder, and the labels of the same names in another one."""

    def __init__(self, folder: Path, labels: Path | None):
        self.files = sorted(path for path in folder.iterdir() if image_suffix(path))
        self._folder = folder
        if not self.files:
            raise ValueError(f"data: no images in the folder {str(folder)!r}.")
        self._images = [Image.read(path) for path in self.files]
        self._labels, self.label_values = None, []
        if labels is not None:
            paths = [_labels_of(path, labels) for path in self.files]
            self._labels = [
                _read_labels(path, image) for path, image in zip(paths, self._images, strict=True)
            ]
            values = set().union(*(np.unique(each).tolist() for each in self._labels))
            self.label_values = sorted(int(value) for value in values if value)
            self.files += paths

    def batches(self, **options) -> PairDataset:
        if len(self._images) < 2:
            raise ValueError(f"data: {str(self._folder)!r} must hold two images or more.")
        return all_pairs(self._images, self._labels, **options)

    def divided(self, share: float, seed: int) -> tuple[_Folder, _Folder]:
        """The images for training, and the share of them that is held out."""
        count = len(self._images)
        held_out = max(2, round(share * count))
        if count - held_out < 2:
            raise ValueError(
                f"--validation: {share:g} of {count} images leaves too few; two at least must be "
                "on either side."
            )
        order = np.random.default_rng(seed).permutation(count)
        return self._part(sorted(order[held_out:])), self._part(sorted(order[:held_out]))

    def _part(self, chosen: Sequence[int]) -> _Folder:
        part = object.__new__(_Folder)
        part.__dict__ = dict(self.__dict__)
        part._images = [self._images[k] for k in chosen]
        part._labels = self._labels and [self._labels[k] for k in chosen]
        return part


class _Table:
    """The pairs of a table, each read when it is asked for."""

    label_values = ()

    def __init__(self, table: Path, labels: Path | None):
        if labels is not None:
            raise ValueError(
                "--labels goes with a folder of images; a table has the columns fixed_labels and "
                "moving_labels."
            )
        self._table, self._pairs = table, read_table(table)
        with open(table, newline="", encoding="utf-8-sig") as file:
            self._rows = [
                {key: value.strip() for key, value in row.items() if key and value}
                for row in csv.DictReader(file)
            ]
        cells = {(table.parent / cell) for row in self._rows for cell in row.values() if cell}
        self.files = [table, *sorted(path for path in cells if path.is_file())]

    def batches(self, **options) -> PairDataset | CloudDraws:
        # The suffix tells, so that nothing is read for it.
        if image_suffix(self._rows[0]["fixed"]):
            return PairDataset(self._pairs, **options)
        return CloudDraws(self._pairs, **_cloud_options(options))

    def divided(self, share: float, seed: int) -> tuple[_Table, _Table]:
        """The pairs for training, and those of the subjects that are held out.

        Subjects are images that pairs connect, so that no image is on both sides; but for one that
        all pairs share, an atlas.
        """
        groups = self._subjects()
        held_out = max(1, round(share * len(groups)))
        if held_out >= len(groups):
            raise ValueError(
                f"--validation: the pairs of {self._table.name!r} belong to {len(groups)} "
                "subject(s), connected by the images that they share, so none can be held out; "
                "give a table of other pairs instead of a share."
            )
        order = np.random.default_rng(seed).permutation(len(groups))
        sides = (order[held_out:], order[:held_out])
        return tuple(self._part(sorted(k for g in side for k in groups[g])) for side in sides)

    def _subjects(self) -> list[list[int]]:
        """The rows of each subject."""
        images = [{(side, row[side]) for side in ("fixed", "moving")} for row in self._rows]
        atlas = set.intersection(*images) if len(images) > 1 else set()
        rows_of = defaultdict(list)
        for number, own in enumerate(images):
            for _, name in own - atlas:
                rows_of[name].append(number)
        group = list(range(len(images)))
        for rows in rows_of.values():
            merged = {group[number] for number in rows}
            group = [min(merged) if each in merged else each for each in group]
        numbered = sorted(range(len(group)), key=lambda number: group[number])
        return [list(rows) for _, rows in itertools.groupby(numbered, key=group.__getitem__)]

    def _part(self, chosen: Sequence[int]) -> _Table:
        part = object.__new__(_Table)
        part.__dict__ = dict(self.__dict__)
        part._pairs = LazyPairs([partial(self._pairs.__getitem__, k) for k in chosen])
        return part


def _labels_of(image: Path, folder: Path) -> Path:
    """The label image of the same name; its suffix may be another one."""
    same = folder / image.name
    if same.is_file():
        return same
    stem = _stem(image)
    found = [path for path in folder.iterdir() if image_suffix(path) and _stem(path) == stem]
    if len(found) != 1:
        raise FileNotFoundError(
            f"--labels: {len(found) or 'no'} files for {image.name!r} in {str(folder)!r}; one is "
            "needed, of the same name."
        )
    return found[0]


def _stem(path: Path) -> str:
    return path.name[: -len(image_suffix(path))]


def _read_labels(path: Path, image: Image) -> np.ndarray:
    values, grid = read_labels(path)
    if not grid.close_to(image.grid, tolerance=0.1):
        raise ValueError(
            f"--labels: {path.name!r} must lie on the grid of {image.name!r}, {image.grid.shape} "
            f"voxels, not {grid.shape} or elsewhere."
        )
    return values
