"""Stanford's .ply files with all that they hold, whatever it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

KINDS = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
LONGEST = 64  # letters of a number


@dataclass
class Lists:
    """One list for each row.

    Attributes:
        lengths: int64 `[rows]`.
        values: of all lists, one after the other.
    """

    lengths: np.ndarray
    values: np.ndarray


@dataclass
class Element:
    """A table.

    Attributes:
        name: "vertex", "face" or another.
        count: of its rows.
        kinds: by column the type of its numbers, and that of the lengths, or None where it holds
            no lists.
        columns: by name an array `[rows]` or the lists.
    """

    name: str
    count: int
    kinds: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    columns: dict[str, np.ndarray | Lists] = field(default_factory=dict)

    def stacked(self, names: tuple[str, ...]) -> np.ndarray | None:
        """Columns of numbers side by side, `[rows, columns]`; None unless all are there."""
        found = [self.columns.get(name) for name in names]
        if not all(isinstance(column, np.ndarray) for column in found):
            return None
        return np.stack(found, axis=-1)


@dataclass
class Ply:
    """What a file holds: its comments, as they stand in the header, and its elements in order."""

    comments: list[str]
    elements: list[Element]

    def element(self, name: str) -> Element | None:
        """The element of a name, if there is one."""
        return next((each for each in self.elements if each.name == name), None)


def read_ply(data: bytes) -> Ply:
    """Reads a file, text or binary. Numbers of a text keep their digits.

    Raises:
        ValueError: for what is no such file, or ends before all is there.
    """
    end = re.search(rb"[\r\n]end_header[ \t]*(\r\n|\n|\r|\Z)", data)
    if not data.startswith(b"ply") or end is None:
        raise ValueError("it has no header that begins with ply and ends with end_header")
    ply, order = _header(data[: end.start()].decode("utf-8", "surrogateescape"))
    start = end.end()
    if order == "=":
        # A text is read like a file of doubles.
        data, start = _doubles(data[start:]), 0
    for element in ply.elements:
        start = _read(element, data, start, lambda kind: "f8" if order == "=" else order + kind)
    return ply


def ply_bytes(ply: Ply) -> bytes:
    """The contents of a binary file."""
    names = {kind: name for name, kind in reversed(KINDS.items())}
    lines = ["ply", "format binary_little_endian 1.0", *ply.comments]
    for element in ply.elements:
        lines.append(f"element {element.name} {element.count}")
        for name, (kind, length) in element.kinds.items():
            lists = "" if length is None else f"list {names[length]} "
            lines.append(f"property {lists}{names[kind]} {name}")
    header = "\n".join([*lines, "end_header", ""]).encode("utf-8", "surrogateescape")
    return header + b"".join(_packed(element) for element in ply.elements)


def _header(text: str) -> tuple[Ply, str]:
    ply, order = Ply([], []), None
    for line in text.splitlines()[1:]:
        words = line.split()
        if not words:
            continue
        elif words[0] in ("comment", "obj_info"):
            ply.comments.append(line.strip())
        elif words[0] == "format" and len(words) == 3 and words[1] in ORDERS:
            order = ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal():
            ply.elements.append(Element(words[1], int(words[2])))
        elif words[0] == "property" and ply.elements and _is_property(words):
            kinds = ply.elements[-1].kinds
            if words[-1] in kinds:
                raise ValueError(f"its element {ply.elements[-1].name} has two {words[-1]!r:.60}")
            length = KINDS[words[2]] if len(words) == 5 else None
            kinds[words[-1]] = KINDS[words[-2]], length
        else:
            raise ValueError(f"its header has the line {line.strip()!r:.60}")
    if order is None:
        raise ValueError("its header has no line of its format")
    return ply, order


def _is_property(words: list[str]) -> bool:
    if len(words) == 5:
        known = words[1] == "list" and words[2] in KINDS and words[3] in KINDS
        return known and KINDS[words[2]][0] != "f"
    return len(words) == 3 and words[1] in KINDS


def _doubles(text: bytes) -> bytes:
    words = text.split()
    longest = max(map(len, words), default=0)
    if longest > LONGEST:
        raise ValueError(f"it holds a word of {longest} letters in the place of a number")
    return np.array(words, dtype=f"S{max(longest, 1)}").astype(np.float64).tobytes()


def _read(element: Element, data: bytes, start: int, stored: Callable[[str], str]) -> int:
    """Fills the columns of an element that begins at `start`, and says where it ends."""
    kinds = {
        name: (np.dtype(stored(kind)), None if length is None else np.dtype(stored(length)))
        for name, (kind, length) in element.kinds.items()
    }
    if not kinds or not element.count:
        for name, (kind, length) in element.kinds.items():
            empty = np.zeros(0, kind)
            element.columns[name] = empty if length is None else Lists(np.zeros(0, int), empty)
        return start
    cut = f"it ends before its {element.count} rows of {element.name} do"

    def row(at: int) -> tuple[list[int], list[int], int]:
        places, lengths = [], []
        for kind, length in kinds.values():
            count = 1
            if length is not None:
                if at + length.itemsize > len(data):
                    raise ValueError(cut)
                count = int(np.frombuffer(data, length, 1, at)[0])
                if count < 0:
                    raise ValueError(f"a list of its {element.name} has the length {count}")
                at += length.itemsize
            places.append(at)
            lengths.append(count)
            at += count * kind.itemsize
            if at > len(data):
                raise ValueError(cut)
        return places, lengths, at

    places, lengths, end = row(start)
    size = end - start
    alike = start + element.count * size <= len(data)
    for (_, length), place, count in zip(kinds.values(), places, lengths, strict=True):
        if alike and length is not None:
            first = place - length.itemsize
            counts = np.ndarray((element.count,), length, data, first, (size,))
            alike = bool((counts == count).all())
    if alike:
        for (name, (kind, length)), place, count in zip(
            kinds.items(), places, lengths, strict=True
        ):
            shape = (element.count, count)
            values = np.ndarray(shape, kind, data, place, (size, kind.itemsize)).reshape(-1)
            many = np.full(element.count, count)
            element.columns[name] = _column(element, name, values, length is not None, many)
        return start + element.count * size
    all_places, all_lengths, end = [], [], start
    for _ in range(element.count):
        places, lengths, end = row(end)
        all_places += places
        all_lengths += lengths
    table = np.reshape((all_places, all_lengths), (2, element.count, len(kinds)))
    octets = np.frombuffer(data, np.uint8)
    for number, (name, (kind, length)) in enumerate(kinds.items()):
        first, many = table[..., number]
        at = np.repeat(first, many) + _within(many) * kind.itemsize
        values = octets[at[:, None] + np.arange(kind.itemsize)].reshape(-1).view(kind)
        element.columns[name] = _column(element, name, values, length is not None, many)
    return end


def _column(element: Element, name: str, values, listed: bool, lengths) -> np.ndarray | Lists:
    kind = np.dtype(element.kinds[name][0])
    if kind.kind != "f" and values.dtype.kind == "f":
        limits = np.iinfo(kind)
        whole = (values >= limits.min) & (values <= limits.max) & (values == np.rint(values))
        if not whole.all():
            raise ValueError(f"{name} of its {element.name} holds what is no whole number")
    values = values.astype(kind if kind.kind != "f" else values.dtype.newbyteorder("="))
    return Lists(lengths, values) if listed else values


def _within(lengths: np.ndarray) -> np.ndarray:
    """The place of every value in its list."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _packed(element: Element) -> bytes:
    if all(length is None for _, length in element.kinds.values()):
        table = np.empty(element.count, [(n, f"<{k}") for n, (k, _) in element.kinds.items()])
        for name, values in element.columns.items():
            table[name] = values
        return table.tobytes()
    sizes = np.zeros(element.count, np.int64)
    for name, (kind, length) in element.kinds.items():
        column, size = element.columns[name], np.dtype(kind).itemsize
        sizes += size if length is None else np.dtype(length).itemsize + column.lengths * size
    packed = np.empty(sizes.sum(), np.uint8)

    def put(at, values, kind):
        size = np.dtype(kind).itemsize
        octets = np.ascontiguousarray(values, f"<{kind}").view(np.uint8)
        packed[at[:, None] + np.arange(size)] = octets.reshape(-1, size)

    at = np.cumsum(sizes) - sizes
    for name, (kind, length) in element.kinds.items():
        column, size = element.columns[name], np.dtype(kind).itemsize
        if length is None:
            put(at, column, kind)
            at = at + size
            continue
        put(at, column.lengths, length)
        at = at + np.dtype(length).itemsize
        put(np.repeat(at, column.lengths) + _within(column.lengths) * size, column.values, kind)
        at = at + column.lengths * size
    return packed.tobytes()
