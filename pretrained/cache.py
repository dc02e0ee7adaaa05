"""Downloads that arrive whole or not at all, and the cache that they land in.

The cache is addressed by content, ``<home>/files/<sha256>/<name>``, so it needs no locks: each
process writes a file of its own, checks it, and renames it into the one place where it belongs.
"""

import contextlib
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pretrained import hub, locks
from pretrained import manifest as manifests

CHUNK = 1 << 20
TIMEOUT = 30.0
# A download may take this many time-outs, and one more for each so many bytes: 33 kB/s.
TIMEOUTS, BYTES = 2, 1_000_000


class FetchError(OSError):
    """A file that could not be brought into the cache; the message lists every attempt."""


class _BadUrl(Exception):
    """Why one URL failed; the next one is tried."""


def home() -> Path:
    """The cache folder: ``$ZOO_HOME``, or ``deformation-zoo`` in the user's cache folder."""
    folder = os.environ.get("ZOO_HOME")
    if not folder:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "deformation-zoo")
    return Path(folder).expanduser().absolute()


def offline() -> bool:
    """Whether ``ZOO_OFFLINE`` forbids downloads."""
    return os.environ.get("ZOO_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def place(filename: str, entry: dict) -> Path:
    """Where the cache keeps a file of a manifest, whether it is there yet or not."""
    return home() / "files" / entry["sha256"] / filename


def sha256(path: Path) -> str:
    """The hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def damage(path: Path, entry: dict) -> str | None:
    """What is wrong with a file: found and expected size or hash. None for an intact one."""
    if not path.exists():
        return "is missing"
    if not path.is_file():
        return "is no regular file"
    # The size tells most damage without reading the file.
    if (found := path.stat().st_size) != (expected := entry["bytes"]):
        return f"has {found} bytes, expected {expected}"
    if (found := sha256(path)) != (expected := entry["sha256"]):
        return f"has sha256 {found}, expected {expected}"
    return None


def fetch(filename: str, entry: dict) -> Path:
    """Brings one file into the cache, unless it is there intact.

    Args:
        filename: The plain name of the file.
        entry: Its row in the manifest, with ``sha256``, ``bytes`` and ``urls``; beside those of
            the manifest one may be ``hf://owner/repo/path@revision``, for the hub's own client.

    Returns:
        The file, with the size and hash that ``entry`` says.

    Raises:
        FetchError: If downloads are forbidden, every URL fails, or the cache cannot be written.
    """
    target = place(filename, entry)
    if (state := damage(target, entry)) is None:
        return target
    _require_network(target, state)
    failures = []
    for url in entry["urls"]:
        try:
            with _arriving(target) as file:
                digest = hashlib.sha256()
                for chunk in _progress(_stream(url, entry["bytes"]), filename, entry["bytes"]):
                    digest.update(chunk)
                    file.write(chunk)
                if (got := file.tell()) < entry["bytes"]:
                    raise _BadUrl(f"truncated: got {got} of {entry['bytes']} bytes")
                if (found := digest.hexdigest()) != entry["sha256"]:
                    raise _BadUrl(f"sha256 mismatch: got {found}, expected {entry['sha256']}")
            return target
        except _BadUrl as error:
            failures.append(f"\n  {url}: {error}")
    raise FetchError(f"{filename} could not be fetched from any of its URLs:{''.join(failures)}")


def fetch_manifest(urls: list[str], target: Path) -> dict:
    """Fetches a ``preset.json``, checks it and keeps it at ``target``.

    Args:
        urls: Where it is, tried in order.
        target: Where it is kept.

    Raises:
        FetchError: As for ``fetch``.
        ManifestError: If what came is no valid manifest; ``target`` is left as it was.
    """
    _require_network(target, "is not a usable copy" if target.exists() else "is missing")
    failures = []
    for url in urls:
        try:
            text = b"".join(_stream(url, manifests.LIMIT))
        except _BadUrl as error:
            failures.append(f"\n  {url}: {error}")
            continue
        manifest = manifests.parse(text, url)
        with _arriving(target) as file:
            file.write(text)
        return manifest
    raise FetchError(f"{target.name} could not be fetched:{''.join(failures)}")


def _require_network(target: Path, state: str) -> None:
    if offline():
        raise FetchError(
            f"{target.name} has to be downloaded ({target} {state}), but the environment "
            f"variable ZOO_OFFLINE={os.environ['ZOO_OFFLINE']} forbids it: unset it, or fetch "
            "where there is a network and copy the cache folder (ZOO_HOME)"
        )


@contextlib.contextmanager
def _arriving(target: Path) -> Iterator[BinaryIO]:
    """A private file beside ``target`` that takes its place on success and vanishes otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of downloads that were killed; those that go on hold theirs locked.
        for left in target.parent.glob(f".{target.name}.*.part"):
            locks.remove_if_left(left)
        with locks.new_file(lambda: _part(target)) as (part, file):
            yield file
            file.flush()
            os.replace(part, target)
    except OSError as error:
        raise FetchError(
            f"cannot write to the cache folder {target.parent}: {error}; "
            "set ZOO_HOME to a folder that you may write to"
        ) from error


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")


def _stream(url: str, limit: int) -> Iterator[bytes]:
    """The bytes behind a URL, up to ``limit``; every failure of the network is a ``_BadUrl``."""
    # Imported here because they take longer than the rest of the package, and few calls need them.
    import http.client
    import urllib.error

    from pretrained import network

    if url.startswith("hf://"):
        yield from _from_hub(url, limit)
        return
    if not url.lower().startswith(("http://", "https://")):
        raise _BadUrl("expected an http or https URL")
    timeout = _timeout()
    seconds = timeout * (TIMEOUTS + limit / BYTES)
    try:
        with network.opened(url, timeout, seconds) as response:
            declared, got = int(response.headers.get("Content-Length") or 0), 0
            # One byte more than allowed is asked for, to see that there is one, and no further.
            while chunk := response.read1(min(CHUNK, limit + 1 - got)):
                got += len(chunk)
                if got > limit:
                    raise _BadUrl(f"too long: more than {limit} bytes")
                yield chunk
            if got < declared:
                raise _BadUrl(f"truncated: got {got} of {declared} bytes")
    except network.TooSlow as error:
        raise _BadUrl(f"too slow: not done after {seconds:.3g} s") from error
    except urllib.error.HTTPError as error:
        error.close()
        raise _BadUrl(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise _BadUrl(f"timed out: no data for {timeout:g} s") from error
        raise _BadUrl(str(reason) or type(reason).__name__) from error


def _from_hub(address: str, limit: int) -> Iterator[bytes]:
    """The bytes of a file that the hub's own client fetches, as `_stream`."""
    try:
        path = hub.download(address, limit, _timeout(), home() / "huggingface")
        with path.open("rb") as file:
            got = 0
            while chunk := file.read(min(CHUNK, limit + 1 - got)):
                got += len(chunk)
                if got > limit:
                    raise _BadUrl(f"too long: more than {limit} bytes")
                yield chunk
    except hub.HubError as error:
        raise _BadUrl(str(error)) from error


def _timeout() -> float:
    text = os.environ.get("ZOO_TIMEOUT") or str(TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"ZOO_TIMEOUT is {text!r}, expected a positive number of seconds")
    return seconds


def _progress(chunks: Iterator[bytes], filename: str, total: int) -> Iterator[bytes]:
    """Passes chunks on; for a large file, a person at a terminal sees how far it is."""
    if total <= 1e6 or not sys.stderr.isatty():
        yield from chunks
        return
    done = 0
    try:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            line = f"\r{filename}: {done / 1e6:.1f} of {total / 1e6:.1f} MB"
            print(line, end="", file=sys.stderr, flush=True)
    finally:
        print(file=sys.stderr)
