"""Compiled code is kept between commands, for this machine alone, and never fills the disk."""

import os

import pytest

from zoo.cli import compilations


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TF_XLA_FLAGS", "--other=1")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    # Whatever the function sets is taken back.
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return tmp_path / "home"


def test_a_folder_that_nobody_else_can_write(home):
    compilations.keep_compilations()
    folder = compilations.compilations()
    assert folder.is_relative_to(home)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["TF_XLA_FLAGS"] == f"--other=1 {compilations.FLAG}={folder}"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)


def test_a_choice_of_the_user_stays(home):
    os.environ["TF_XLA_FLAGS"] = given = f"{compilations.FLAG}=elsewhere"
    compilations.keep_compilations()
    assert os.environ["TF_XLA_FLAGS"] == given and not home.exists()


def test_other_processors_have_other_folders(home, monkeypatch):
    first = compilations.compilations()
    monkeypatch.setattr(compilations, "_features", lambda: "other")
    assert compilations.compilations() != first


def test_the_oldest_is_dropped(home, monkeypatch):
    folder = compilations.compilations()
    folder.mkdir(parents=True)
    for age, name in enumerate(("new", "middle", "old")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(compilations, "MOST", 200)
    compilations.keep_compilations()
    assert sorted(file.name for file in folder.iterdir()) == ["middle", "new"]


def test_a_place_that_cannot_be_written_is_done_without(home):
    home.write_text("no folder")
    compilations.keep_compilations()
    assert os.environ["TF_XLA_FLAGS"] == "--other=1"
