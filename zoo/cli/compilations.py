"""What XLA has compiled is kept between commands: the second training starts sooner.

One folder for each version of TensorFlow and kind of processor, because the code of one does not
run on the other.
"""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MOST = 512 * 2**20  # bytes of a folder, before the oldest are dropped
FLAG = "--tf_xla_persistent_cache_directory"


def keep_compilations() -> None:
    """Points TensorFlow and JAX, not yet imported, to the folder; a choice of the user's stays."""
    if FLAG in os.environ.get("TF_XLA_FLAGS", "") or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = compilations()
    try:
        # Code that is run: nobody else may write it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _prune(folder)
    except OSError:
        return  # such as a full or a read-only disk: compiled anew, as without
    os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {FLAG}={folder}".strip()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def compilations() -> Path:
    """The folder, for the installed version and this machine's kind of processor."""
    from pretrained import cache

    try:
        installed = version("tensorflow")
    except PackageNotFoundError:
        installed = "none"
    processor = platform.machine() + _features()
    digest = hashlib.sha256(processor.encode()).hexdigest()[:12]
    return cache.home() / "compiled" / f"tensorflow-{installed}-{digest}"


def _features() -> str:
    """What the processor can do, where the system tells; its name elsewhere."""
    facts = Path("/proc/cpuinfo")
    if not facts.is_file():
        return platform.processor()
    lines = facts.read_text(errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _prune(folder: Path) -> None:
    files = sorted(
        ((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir()),
        reverse=True,
    )
    total = 0
    for _, size, file in files:
        total += size
        if total > MOST:
            file.unlink(missing_ok=True)
