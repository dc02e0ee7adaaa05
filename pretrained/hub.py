"""The hub's own client, ``huggingface_hub``, for ``hf://`` where it is installed.

It knows tokens and private repositories, tries again and goes on where a download broke off. What
it raises depends on its version, so that anything is a ``HubError`` here.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

NAME = "huggingface_hub"


class HubError(OSError):
    """What the client could not do, in one line."""


def endpoint() -> str:
    """The server behind ``hf://``: ``$HF_ENDPOINT``, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_installed() -> bool:
    """Whether there is the client; it is not imported."""
    return find_spec(NAME) is not None


def client() -> ModuleType:
    """The client, imported.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    try:
        return import_module(NAME)
    except ImportError as error:
        raise ImportError(f"{NAME} is needed: pip install {NAME} ({error})") from error


def download(address: str, limit: int, timeout: float, folder: Path) -> Path:
    """Has a file of a repository on this machine, in the client's own cache.

    Args:
        address: ``hf://owner/repo/path@revision``.
        limit: Bytes that it may have; one that says it has more is not fetched.
        timeout: Seconds to wait for an answer.
        folder: Of the cache.

    Raises:
        HubError: Whatever goes wrong.
    """
    where, _, revision = address.removeprefix("hf://").rpartition("@")
    owner, name, path = where.split("/", 2)
    place = {"repo_id": f"{owner}/{name}", "filename": path, "revision": revision}
    try:
        hub = client()
        url = hub.hf_hub_url(**place, endpoint=endpoint())
        size = hub.get_hf_file_metadata(url, timeout=timeout).size
        if size is not None and size > limit:
            raise HubError(f"too long: {size} bytes, more than {limit}")
        return Path(
            hub.hf_hub_download(
                **place, endpoint=endpoint(), cache_dir=folder, etag_timeout=timeout
            )
        )
    except HubError:
        raise
    except Exception as error:
        raise HubError(in_one_line(error)) from error


def in_one_line(error: Exception) -> str:
    """An error of the client in words; its own are of several lines."""
    return " ".join(str(error).split()) or type(error).__name__
