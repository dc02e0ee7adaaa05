"""Downloads and folders whose process was killed, or that two processes want at once."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pretrained
from pretrained import cache, locks, network, swapping

ROOT = Path(pretrained.__file__).parents[1]
LICENCE = {"weights": "CC0-1.0", "data": "CC0-1.0"}
MANIFEST = {"model": "toy", "config": {}, "inputs": {}, "outputs": {}, "licence": LICENCE}


def write(folder, data=b"weights", **more):
    files = {"model.weights.h5": lambda path: path.write_bytes(data)}
    return pretrained.write(folder, {**MANIFEST, "tag": folder.name}, files, **more)


def weights(folder):
    return pretrained.locate(folder).path("model.weights.h5").read_bytes()


# A process that kills itself between the two renames of an overwriting save.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from test_interrupted import write
rename = os.rename
def killed(source, target):
    if str(source).endswith(".new"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.rename = killed
write(Path(sys.argv[2]), b"new weights", overwrite=True)
"""


def kill(folder):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, timeout=60).returncode == -9
    assert not folder.exists()


@pytest.mark.parametrize("name", ["mine", "mine.v2"])
def test_a_kill_between_the_renames_costs_nothing(tmp_path, name):
    folder = tmp_path / name
    write(folder, b"old weights")
    kill(folder)
    assert weights(folder) == b"new weights"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_new_folder_that_is_not_whole_gives_way_to_the_old_one(tmp_path):
    folder = tmp_path / "mine"
    write(folder, b"old weights")
    kill(folder)
    draft = next(tmp_path.glob(".mine.*.new"))
    (draft / "model.weights.h5").write_bytes(b"half")
    write(tmp_path / "other")
    assert weights(folder) == b"old weights"


def test_a_named_preset_is_recovered_as_well(tmp_path):
    folder = tmp_path / "toy" / "small"
    write(folder, b"old weights")
    kill(folder)
    assert [preset.name for preset in pretrained.find("toy.*", [tmp_path])] == ["toy.small"]
    assert weights(folder) == b"new weights"


def test_two_writers_of_one_folder_end_with_one_whole_and_one_error(tmp_path):
    folder, started, go_on = tmp_path / "mine", threading.Event(), threading.Event()

    def slow(path):
        started.set()
        assert go_on.wait(10)
        path.write_bytes(b"first")

    files = {"model.weights.h5": slow}
    first = threading.Thread(
        target=pretrained.write, args=(folder, {**MANIFEST, "tag": "mine"}, files)
    )
    first.start()
    assert started.wait(10)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="mine is being written by another process"):
            write(folder, b"second", overwrite=overwrite)
    go_on.set()
    first.join()
    assert weights(folder) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write(folder, b"second")


def test_what_killed_writers_left_is_removed_by_the_next(tmp_path):
    left = swapping.draft_of(tmp_path / "mine")
    left.mkdir()
    (left / "model.weights.h5").write_bytes(b"half")
    (tmp_path / ".mine.lock").write_bytes(b"")
    other = swapping.draft_of(tmp_path / "mine.v2")
    other.mkdir()
    write(tmp_path / "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"mine", other.name}


def test_parts_of_killed_downloads_are_removed_and_others_are_not(tmp_path):
    target = tmp_path / "model.weights.h5"
    left = tmp_path / ".model.weights.h5.0123456789abcdef.part"
    left.write_bytes(b"half")
    with cache._arriving(target) as going_on:
        going_on.write(b"one")
        assert not left.exists()
        with cache._arriving(target) as file:
            file.write(b"two")
        assert target.read_bytes() == b"two"
        assert len(list(tmp_path.iterdir())) == 2
    assert target.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [target]


def test_a_lock_is_held_once_and_leaves_nothing(tmp_path):
    path = tmp_path / "lock"
    path.write_bytes(b"")  # of a killed process
    with locks.lock(path), pytest.raises(locks.Held), locks.lock(path):
        raise AssertionError("held twice")
    assert not path.exists()


@pytest.fixture
def trickle():
    """A server that answers, and then sends a byte every tenth of a second for ever."""
    listening, done = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve(beginning):
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(beginning)
            while not done.wait(0.1):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    threads = []

    def start(beginning):
        threads.append(threading.Thread(target=serve, args=(beginning,), daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/"

    yield start
    done.set()
    listening.close()
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize(
    "beginning",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: ",
        b"",
    ],
)
def test_a_server_that_trickles_is_left_in_time(tmp_path, monkeypatch, trickle, beginning):
    monkeypatch.setenv("ZOO_TIMEOUT", "0.4")
    monkeypatch.setenv("no_proxy", "*")
    entry = {"sha256": "0" * 64, "bytes": 1_000_000, "urls": [trickle(beginning)]}
    start = time.monotonic()
    with pytest.raises(pretrained.FetchError, match="too slow: not done after 1.2 s"):
        cache.fetch("model.weights.h5", entry)
    assert 1 < time.monotonic() - start < 5


@pytest.mark.parametrize("through_proxy", [False, True])
def test_a_handshake_that_trickles_is_left_in_time(tmp_path, monkeypatch, trickle, through_proxy):
    monkeypatch.setenv("ZOO_TIMEOUT", "0.4")
    if through_proxy:
        monkeypatch.setenv("https_proxy", trickle(b"HTTP/1.1 200 OK\r\nX-Long: "))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        url, words = "https://example.org/", "too slow: not done after 1.2 s"
    else:
        monkeypatch.setenv("no_proxy", "*")
        # A record of a handshake, of 16,383 bytes.
        # Python gives a handshake no more time than the wait for a byte.
        words = "no data for 0.4 s"
        url = trickle(b"\x16\x03\x03\x3f\xff").replace("http:", "https:")
    entry = {"sha256": "0" * 64, "bytes": 1_000_000, "urls": [url]}
    start = time.monotonic()
    with pytest.raises(pretrained.FetchError, match=words):
        cache.fetch("model.weights.h5", entry)
    assert time.monotonic() - start < 5


def test_a_redirection_leads_to_no_file(tmp_path, monkeypatch, trickle):
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "secret").write_text("secret")
    for target in ((tmp_path / "secret").as_uri(), "ftp://127.0.0.1:1/x"):
        url = trickle(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\n\r\n".encode())
        with pytest.raises(OSError), network.opened(url, 1, 5) as response:
            response.read()
