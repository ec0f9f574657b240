"""Pods as processes, each behind two proxies of its own: one to the store, one to the broker.

A slot is a place for a pod: its name, its proxies, its wrong clock. The process in it comes and goes. A process that
ends though nobody told it to is started again, and written down as a crash unless its handler ended it on purpose.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from sqlalchemy import make_url

from tests.faults.history import Journal, now
from tests.faults.proxy import Proxy

REPOSITORY = Path(__file__).parents[2]
EXIT_OF_A_HANDLER = 7


class Slot:
    """One place for a pod. Its methods are for one thread at a time, under its lock."""

    def __init__(
        self,
        name: str,
        folder: Path,
        journal: Journal,
        *,
        store_url: str,
        to_store: Proxy | None,
        broker_url: str,
        to_broker: Proxy | None,
        module: str = "bridge.cli.main",
    ) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.clock_offset = 0.0
        self._folder = folder
        self._module = module
        self._journal = journal
        self._process: subprocess.Popen[bytes] | None = None
        self.to_store, self.to_broker = to_store, to_broker
        self._urls = {"STORE_URL": store_url, "BROKER_URL": broker_url}

    @property
    def pid(self) -> int:
        """Of its process; 0: there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> int:
        """Start a pod."""
        with self.lock, (self._folder / f"{self.name}.log").open("ab") as log:
            assert self._process is None
            skew = str(REPOSITORY / "tests" / "faults" / "skew")
            own = {
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *([skew] if self.clock_offset else [])]),
                "POD_NAME": self.name,
                "FAULTS_CLOCK_OFFSET": str(self.clock_offset),
                "MALLOC_ARENA_MAX": "2",  # as the image has it
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, "run", "--log-format", "text"],
                cwd=self._folder,
                env=os.environ | self._urls | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            self._journal.write("pod", pid=self._process.pid, name=self.name)
            return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with self.lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None

    def terminate(self, seconds: float, *, twice_after: float | None = None) -> int | None:
        """SIGTERM, and wait; None: it did not end in time and was killed."""
        with self.lock:
            process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        if twice_after is not None:
            time.sleep(twice_after)
            process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    def revive(self) -> bool:
        """Start a new pod where the old one ended by itself."""
        with self.lock:
            if self._process is None or self._process.poll() is None:
                return False
            if self._process.returncode != EXIT_OF_A_HANDLER:
                self._journal.write("crash", pid=self._process.pid, code=self._process.returncode)
            self._process = None
            self.start()
            return True

    def restore(self) -> None:
        """End the faults of its links."""
        for proxy in (self.to_store, self.to_broker):
            if proxy is not None:
                proxy.restore()

    def close(self) -> None:
        """End its process, whatever state it is in, and its proxies."""
        self.kill()
        for proxy in (self.to_store, self.to_broker):
            if proxy is not None:
                proxy.close()


def behind(url: str) -> tuple[Proxy | None, str]:
    """A proxy before the server that a URL names, and the URL that leads through it; a file has none."""
    if not url or url.startswith("sqlite"):
        return None, url
    parsed = make_url(url)
    assert parsed.port is not None
    proxy = Proxy("127.0.0.1", parsed.port)
    return proxy, parsed.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)


class Supervisor(threading.Thread):
    """Starts a pod anew where one ended by itself."""

    def __init__(self, slots: list[Slot]) -> None:
        super().__init__(daemon=True)
        self._slots = slots
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.3):
            for slot in self._slots:
                slot.revive()

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Stalls(threading.Thread):
    """Notices that this machine ran nothing of ours for a while: then pods were frozen by nobody."""

    LONGEST = 1.5

    def __init__(self, journal: Journal) -> None:
        super().__init__(daemon=True)
        self._journal = journal
        self._stopping = threading.Event()

    def run(self) -> None:
        before, true_before = time.monotonic(), now()
        while not self._stopping.wait(0.1):
            after = time.monotonic()
            if after - before > self.LONGEST:
                self._journal.write("stall", since=true_before)
            before, true_before = after, now()

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def rss_and_more(pid: int) -> dict[str, int] | None:
    """Memory in bytes, threads, file descriptors and sockets of a process; None: it is gone."""
    with contextlib.suppress(OSError, ValueError):
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" not in fields:
            return None
        files = []
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                files.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
        return {
            "rss": int(fields["VmRSS"].split()[0]) * 1024,
            "threads": int(fields["Threads"]),
            "files": len(files),
            "connections": sum(name.startswith("socket:") for name in files),
        }
    return None
