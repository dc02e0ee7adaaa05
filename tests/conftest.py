"""Fixtures of all tests: a private cache, a fixed seed, and the real data where it is present."""

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True, scope="module")
def freed():
    """Drops what is kept of a file of tests: graphs of all sizes, and the data of every `fit`."""
    yield
    if "zoo.ops.kernels" in sys.modules:
        sys.modules["zoo.ops.kernels"].forget()
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()
        gc.collect()


@pytest.fixture
def data():
    """Finds a file of the real data sets, which never enter the project; skips without them."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"needs the data set file {name}")
        return path

    return find


@pytest.fixture
def seeded():
    import keras

    keras.utils.set_random_seed(0)
