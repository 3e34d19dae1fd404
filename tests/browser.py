"""A headless Chromium, driven over a pair of pipes by the DevTools protocol.

No driver and no websocket: messages are JSON, each ended by a zero byte, on file descriptors 3
(to the browser) and 4 (from it). One page at a time.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
WAIT_S = 30.0


def chromium() -> str | None:
    """The browser's program, where there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One browser with one page. A context manager.

    Attributes:
        faults: What the page complained of since it was opened: console errors, exceptions,
            requests that failed, requests that left the machine.
    """

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        program = chromium()
        assert program is not None

        # Copies with numbers above 4, so that making 3 and 4 overwrites neither.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_read, to_write)]
        self._process = subprocess.Popen(
            [
                sys.executable, "-c", LAUNCH, *map(str, ends),
                program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}",
                "about:blank",
            ],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (to_read, to_write, *ends):
            os.close(fd)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self.faults: list[str] = []
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, url: str) -> None:
        """Goes to an address and waits until it has loaded."""
        self.faults, self._loaded = [], False
        self._call("Page.navigate", url=url)
        end = time.monotonic() + WAIT_S
        while not self._loaded:
            assert time.monotonic() < end, f"{url} does not load"
            self._take(0.5)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is; a promise is waited for."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = WAIT_S) -> Any:
        """Waits until an expression is true; its last value either way."""
        end = time.monotonic() + seconds
        while not (found := self.value(expression)) and time.monotonic() < end:
            self._take(0.05)
        return found

    def size(self, width: int, height: int) -> None:
        """Another window."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def screenshot(self, file: Path) -> None:
        """What is seen, as a PNG."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + WAIT_S
        while True:
            assert time.monotonic() < end, f"no answer to {method}"
            for answer in self._take(0.5):
                if answer.get("id") == self._number:
                    assert "error" not in answer, answer["error"]
                    return answer["result"]  # type: ignore[no-any-return]

    def _take(self, seconds: float) -> list[dict[str, Any]]:
        """Messages that have come; events among them are noted."""
        if not select.select([self._read], [], [], seconds)[0]:
            return []
        self._buffer += os.read(self._read, 1 << 20)
        *whole, self._buffer = self._buffer.split(b"\0")
        messages = [json.loads(message) for message in whole]
        for message in messages:
            self._note(message.get("method", ""), message.get("params", {}))
        return messages

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.faults.append(f"exception: {event['exceptionDetails']['text']}")
        elif method == "Runtime.consoleAPICalled" and event["type"] == "error":
            self.faults.append(f"console: {[a.get('value') for a in event['args']]}")
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.faults.append(f"log: {event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = event["request"]["url"]
            if not url.startswith(("http://127.0.0.1", "data:", "blob:", "about:")):
                self.faults.append(f"a request left the machine: {url}")
