"""Debian's Chromium without a window, driven over its DevTools protocol by a pair of pipes; no driver, no library.

with Browser(folder) as browser:
    page = browser.page(user="alice", password="secret")
    page.go("http://127.0.0.1:8080/")
    page.click("button")
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.servers.processes import wait_until
from tests.servers.server import ServerUnavailable, find_program

SECONDS = 60.0


class Browser:
    """One process. Its messages are read on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        program = os.environ.get("JOBBRIDGE_TEST_CHROMIUM") or find_program("chromium")
        to_it, ours = os.pipe()
        theirs, from_it = os.pipe()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        options = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"]
        command = [program, *root, *options, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_it} 4>&{from_it}', "bash", *command],
            pass_fds=(to_it, from_it),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_it)
        os.close(from_it)
        self._ours, self._theirs = ours, theirs
        self._answers: dict[int, dict[str, Any]] = {}
        self._arrived = threading.Condition()
        self._number = 0
        self._pages: dict[str, Page] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False, user: str, password: str) -> Page:
        """A page that shares nothing with others, logged in."""
        alone = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=alone)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, user, password)
        for domain in ("Page", "Runtime", "Log", "Audits", "Network"):
            page.call(f"{domain}.enable")
        page.call("Fetch.enable", handleAuthRequests=True)
        page.look(width, height, dark=dark)
        return page

    def send(self, method: str, session: str | None = None, **parameters: object) -> int:
        """Without waiting for the answer; its number."""
        with self._arrived:
            self._number += 1
            message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
            os.write(self._ours, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
            return self._number

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """The answer."""
        number = self.send(method, session, **parameters)
        with self._arrived:
            assert self._arrived.wait_for(lambda: number in self._answers, SECONDS), f"no answer to {method}"
            answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    def _read(self) -> None:
        rest = b""
        while read := os.read(self._theirs, 1 << 20):
            *messages, rest = (rest + read).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    with self._arrived:
                        self._answers[message["id"]] = message
                        self._arrived.notify_all()
                elif message.get("sessionId") in self._pages:
                    self._pages[message["sessionId"]].hear(message["method"], message["params"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._thread.join(5)
        os.close(self._ours)
        os.close(self._theirs)


class Page:
    """A tab. `complaints` are what its console was told of errors, and every violation of a policy."""

    def __init__(self, browser: Browser, session: str, user: str, password: str) -> None:
        self._browser, self._session = browser, session
        self._login = {"response": "ProvideCredentials", "username": user, "password": password}
        self.complaints: list[str] = []
        self._loaded = threading.Event()

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def hear(self, method: str, told: dict[str, Any]) -> None:
        """On the browser's thread, which waits for no answer."""
        if method == "Fetch.requestPaused":
            self._browser.send("Fetch.continueRequest", self._session, requestId=told["requestId"])
        elif method == "Fetch.authRequired":
            more = {"requestId": told["requestId"], "authChallengeResponse": self._login}
            self._browser.send("Fetch.continueWithAuth", self._session, **more)
        elif method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(told["args"])[:500])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url')}"[:500])
        elif method == "Audits.issueAdded" and told["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.complaints.append(str(told["issue"]["details"])[:500])

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Another window, or another light."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def go(self, url: str) -> None:
        """Load a page."""
        self._loading(lambda: self.call("Page.navigate", url=url))

    def click(self, selector: str) -> None:
        """Click on what leads to another page."""
        self._loading(lambda: self.run(f"document.querySelector({json.dumps(selector)}).click()"))

    def enter(self, selector: str, text: str) -> None:
        """Fill in a field, and send its form."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{field}.value = {json.dumps(text)}")
        self._loading(lambda: self.run(f"{field}.form.requestSubmit()"))

    def run(self, script: str) -> Any:
        """The value of an expression."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, f"{script}: {told['exceptionDetails']}"
        return told["result"].get("value")

    @property
    def text(self) -> str:
        """What can be read."""
        return str(self.run("document.body.innerText"))

    def wait(self, script: str, seconds: float = SECONDS) -> None:
        """Until an expression holds."""
        assert wait_until(lambda: bool(self.run(script)), seconds, 0.1), f"{script} does not hold:\n{self.text}"

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """A screenshot, of the whole page or of what the window shows."""
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 3000), "scale": 1}
            shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        else:
            shot = self.call("Page.captureScreenshot")
        file.write_bytes(base64.b64decode(shot["data"]))

    def _loading(self, act: Callable[[], object]) -> None:
        self._loaded.clear()
        act()
        assert self._loaded.wait(SECONDS), "no page was loaded"


def available() -> str | None:
    """Why there is no browser; None: there is one."""
    try:
        find_program("chromium")
    except ServerUnavailable as reason:
        return None if os.environ.get("JOBBRIDGE_TEST_CHROMIUM") else str(reason)
    return None
