"""A headless Chromium, spoken to through two pipes: what a page looks like, says, and asks for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--hide-scrollbars",
    # OpenGL without a graphics card.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--remote-debugging-pipe",
)


def chromium() -> str | None:
    """The program: that of the variable CHROMIUM, or one of `NAMES` in the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab of a Chromium; use it in a `with` statement.

    Args:
        profile: a folder for its files.
        size: of the window, pixels.

    Attributes:
        errors: what pages wrote to the console as errors, and exceptions that nobody caught.
        asked: the addresses that pages asked for.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1200, 800)):
        (to, self._out), (self._in, back) = os.pipe(), os.pipe()
        # The program reads from its descriptor 3 and writes to its descriptor 4.
        line = f'exec "$@" 3<&{to} 4>&{back}'
        place = (f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}")
        self._process = subprocess.Popen(
            ["bash", "-c", line, "bash", chromium(), *OPTIONS, *place, "about:blank"],
            pass_fds=(to, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to), os.close(back)
        self._left, self._number, self._session = b"", 0, None
        self.errors, self.asked = [], []

    def __enter__(self) -> Browser:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{room}.enable")
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()
        os.close(self._out), os.close(self._in)

    def open(self, path: Path) -> None:
        """Opens a file, and waits until plotly has drawn it."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && !!document.querySelector('.main-svg')")
        self.settle()

    def settle(self) -> None:
        """Waits until what was asked of plotly is on the screen."""
        self.run("new Promise(done => setTimeout(() => requestAnimationFrame(done), 700))")

    def wait(self, condition: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {SECONDS} s: {condition}; errors {self.errors}")
            time.sleep(0.1)

    def run(self, expression: str):
        """The value of an expression of JavaScript, a promise's when it is kept."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.send("Runtime.evaluate", **given)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """Presses and releases the mouse at a place of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
        self.settle()

    def picture(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def send(self, method: str, **given) -> dict:
        """Sends a command and returns its answer; takes note of events in between."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict:
        while b"\0" not in self._left:
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("Chromium ended before it answered.")
            self._left += part
        line, self._left = self._left.split(b"\0", 1)
        return json.loads(line)

    def _note(self, event: dict) -> None:
        method, facts = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(facts["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and facts["type"] == "error":
            self.errors.append([each.get("value") for each in facts["args"]])
        elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.errors.append(facts["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(facts["request"]["url"][:200])


def main(words: list[str]) -> None:
    """`python tests/view/chromium.py page.html picture.png [width height]`: a screenshot."""
    import tempfile

    size = tuple(map(int, words[2:4])) or (1200, 800)
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder), size) as browser:
        browser.open(Path(words[0]))
        Path(words[1]).write_bytes(browser.picture())
        print(f"{words[1]}: errors {browser.errors}, asked for {len(browser.asked)} addresses")


if __name__ == "__main__":
    main(sys.argv[1:])
