"""A preset goes to a hub: its files, and a card with the facts that a hub reads."""

import os
import re

from pretrained import cache, hub
from pretrained.manifest import HASH, MANIFEST, PREVIEW, card
from pretrained.store import SHOWN, Handle, IntegrityError, Preset, Roots, locate, verify

# Of the hub's identifiers those that are SPDX's in small letters, without "-only".
_FAMILIES = re.compile(
    r"cc0-1\.0|cc-by-(2\.0|2\.5|3\.0|4\.0)|cc-by-sa-(3\.0|4\.0)|cc-by-nc-(2\.0|3\.0|4\.0)|"
    r"cc-by-nd-4\.0|cc-by-nc-nd-(3\.0|4\.0)|cc-by-nc-sa-(2\.0|3\.0|4\.0)|apache-2\.0|mit|isc|"
    r"bsd-[23]-clause|[al]?gpl-3\.0|gpl-2\.0|lgpl-2\.1|mpl-2\.0|unlicense|zlib"
)


class PushError(OSError):
    """A preset that could not be uploaded; the message says what the hub said."""


def push(
    folder: Handle, handle: str, *, private: bool = False, tags: Roots = (), roots: Roots = ()
) -> str:
    """Uploads a preset to a hub, in one commit; the repository is made where there is none.

    Args:
        folder: Of the preset, or its name.
        handle: ``"hf://owner/name"``, the repository.
        private: Whether a repository that is made is seen by its owner alone.
        tags: For those who search the hub.
        roots: As for ``locate``.

    Returns:
        The handle that loads what was uploaded: ``"hf://owner/name@commit"``.

    Raises:
        IntegrityError: If a file of the preset is altered; nothing is uploaded.
        ValueError: If ``handle`` is not of that form.
        ImportError: If ``huggingface_hub`` is not installed.
        PushError: If downloads and uploads are forbidden, there is no token, or the hub refuses.
        PresetNotFound, ManifestError, FileNotFoundError, FetchError: As for ``locate``.
    """
    match = re.fullmatch(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)", str(handle))
    if match is None:
        raise ValueError(f"handle is {handle!r}, expected hf://owner/name")
    if not isinstance(private, bool):
        raise TypeError(f"private is {private!r}, expected True or False")
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder is {folder!r}, expected a preset's folder or name")
    preset = locate(folder, roots)
    if problems := verify(preset):
        raise IntegrityError(f"preset {preset.name} is not pushed: {'; '.join(problems)}")
    if cache.offline():
        raise PushError(f"ZOO_OFFLINE={os.environ['ZOO_OFFLINE']} forbids uploads: unset it")
    client = hub.client()
    repository = match[1]
    try:
        token = client.get_token()
        if token is None:
            raise PushError(
                "there is no token of the hub: log in by `hf auth login`, or set HF_TOKEN to one "
                "that may write"
            )
        front = _front_matter(client, preset.manifest, tags)
        api = client.HfApi(endpoint=hub.endpoint(), token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository,
            [
                client.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                for name, content in _files(preset, front, f"hf://{repository}").items()
            ],
            commit_message=f"{preset.name}, SHA-256 {preset.manifest[HASH]}",
        )
    except PushError:
        raise
    except Exception as error:
        raise PushError(
            f"{hub.endpoint()} did not take {repository}: {hub.in_one_line(error)}"
        ) from error
    return f"hf://{repository}@{commit.oid}"


def _files(preset: Preset, front: str, handle: str) -> dict[str, str | bytes]:
    """The files of a repository by name: paths, and the text of its card."""
    files = {MANIFEST: str(preset.folder / MANIFEST)}
    for name in preset.manifest["files"]:
        # What is only shown is not in every installation.
        if name not in SHOWN or (preset.folder / name).is_file():
            files[name] = str(preset.path(name))
    text = card(preset.manifest, preview=PREVIEW in files, handle=handle)
    return files | {"README.md": f"---\n{front}\n---\n\n{text}".encode()}


def _front_matter(client, manifest: dict, tags: Roots) -> str:
    """What a hub reads at the top of a card: YAML."""
    names = [each["name"] for each in manifest.get("metrics", ())]
    data = client.ModelCardData(
        **licence(manifest["licence"]["weights"]),
        library_name="keras",
        tags=list(dict.fromkeys(["deformation-zoo", manifest["model"], *map(str, tags)])),
        metrics=list(dict.fromkeys(names)) or None,
    )
    return data.to_yaml().strip()


def licence(written: str) -> dict[str, str]:
    """A licence as hubs name it: an identifier of theirs, or another one with name and place.

    Args:
        written: An SPDX expression, or any text.
    """
    short = re.sub("-(only|or-later)$", "", written.casefold())
    if short == "unspecified":
        return {"license": "unknown"}
    if _FAMILIES.fullmatch(short):
        return {"license": short}
    name = re.sub("[^a-z0-9.]+", "-", written.casefold()).strip("-")
    return {"license": "other", "license_name": name, "license_link": "README.md"}
