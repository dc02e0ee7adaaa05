"""What stored files declare, looked at before anything is read from them.

A few bytes can stand for any number of zeros, a header for an array of any size: a file that was
made to fill a memory tells so by the sizes that it declares.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

MOST_UNPACKED = 2**30  # bytes of an archive of arrays
MOST_ARRAYS = 100_000  # of a weight file


def check_archive(path: str | Path, most: int = MOST_UNPACKED, argument: str = "path") -> None:
    """Checks that a zip archive, such as a `.npz`, does not unpack to more than a limit.

    Args:
        path: of the archive.
        most: bytes of all its members together.
        argument: its name in the error.

    Raises:
        ValueError: for more, and for what is no archive.
    """
    name = Path(path).name
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > most:
                raise ValueError(
                    f"{argument}: {name!r} declares {total} bytes when unpacked, at most {most} "
                    "are read."
                )
            for member in members:
                if member.filename.endswith(".npy"):
                    _check_header(archive, member, argument, name)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{argument}: {name!r} is no archive: {error}") from error


def _check_header(archive, member, argument: str, name: str) -> None:
    """Checks that the shape in the header of an array is that of the bytes after it."""
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = readers[version](file)
        except (KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{argument}: {name!r} holds no array {member.filename!r}.") from error
    size = dtype.itemsize
    for each in shape:
        size *= int(each)
    if size > member.file_size:
        raise ValueError(
            f"{argument}: {member.filename!r} in {name!r} declares {size} bytes and has "
            f"{member.file_size}."
        )


def check_weights(path: str | Path, dtypes: Collection[str]) -> None:
    """Checks that a weight file holds numbers that can be weights, and all of them itself.

    Args:
        path: of an `.h5` file.
        dtypes: of the variables that it is for; float16 may stand for any of float.

    Raises:
        ValueError: for links, arrays in other files or of other types, arrays larger than the
            file, and values that are not finite.
    """
    import h5py

    path = Path(path)
    allowed = {*dtypes, "float16"}
    left = path.stat().st_size
    with h5py.File(path, "r") as file:
        for count, dataset in enumerate(_datasets(file)):
            where = f"{path.name}{dataset.name}"
            if dataset.is_virtual or dataset.external:
                raise ValueError(f"{where} lies in another file.")
            if dataset.dtype.name not in allowed:
                raise ValueError(
                    f"{where} is of {dataset.dtype.name}, expected {' or '.join(sorted(allowed))}."
                )
            left -= dataset.size * dataset.dtype.itemsize
            if left < 0 or count == MOST_ARRAYS:
                raise ValueError(f"{path.name} declares more than it holds.")
            if not np.isfinite(dataset[()]).all():
                raise ValueError(f"{where} holds values that are NaN or infinite.")


def _datasets(file) -> Iterator:
    """All arrays of an `.h5` file, each once; links are not followed."""
    import h5py

    waiting, seen = [file], set()
    while waiting:
        group = waiting.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{Path(file.filename).name}{group.name}/{name} is a link.")
            each = group[name]
            # Several names may stand for one group, also for one that holds them.
            address = h5py.h5o.get_info(each.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(each, h5py.Dataset):
                yield each
            elif isinstance(each, h5py.Group):
                waiting.append(each)
