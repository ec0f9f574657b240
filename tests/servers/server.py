"""A real server for tests: start, stop, crash, freeze, start again on the same port with the same data.

Each kind of server says in its own file how it is prepared, started and known to be ready. All that is common is
here. A server is used as a context manager, or through the fixtures in `tests/conftest.py`:

    with PostgreSQL() as server:
        server.kill()
        server.start()
"""

import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.servers.processes import processes_in, send, wait_until
from tests.servers.watchdog import RunDirectory

_CHOICE = random.Random()  # of its own, so that a test that seeds `random` gets no port twice


class ServerUnavailable(Exception):
    """This machine can't run the server: something is not installed. Anything else that fails is an error."""


@lru_cache(maxsize=1)
def default_run_directory() -> RunDirectory:
    """Make the run directory of a plain program; under pytest, conftest gives servers that of the whole run."""
    return RunDirectory()


def free_port() -> int:
    """Choose a loopback port below the range that the kernel gives to clients.

    From within that range a client that reconnects in a loop to a stopped server can meet itself, and any other
    client can take the port before the server comes back to it.
    """
    for _ in range(1000):
        port = _CHOICE.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port
    raise RuntimeError("no free loopback port between 15000 and 32000")


def accepts_connections(port: int) -> bool:
    """Say whether somebody listens on the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Server(ABC):
    """One server process with its data directory. Not for use by two threads at once."""

    name: ClassVar[str]
    start_seconds: ClassVar[float] = 60
    stop_seconds: ClassVar[float] = 30
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    user: ClassVar[str | None] = None  # whom to become when the tests are run by root
    is_external = False

    def __init__(self, run_directory: Path | None = None, *, directory: Path | None = None, port: int = 0) -> None:
        """Choose a place; nothing is started yet. A directory and port attach to a server that somebody started."""
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if directory is None:
            parent = run_directory or default_run_directory().path
            directory = Path(tempfile.mkdtemp(prefix=f"{self.name.lower()}-", dir=parent))
            self._give(directory)
        self.directory = directory

    @property
    @abstractmethod
    def url(self) -> str:
        """Give what a configuration file would say."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the data directory; called at the first start. Raises ServerUnavailable."""

    @abstractmethod
    def command(self) -> list[str]:
        """Give the command that stays in the foreground."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Say whether a client is served; called again and again."""

    def environment(self) -> dict[str, str]:
        """Give the server's environment: nothing of the caller's settings, and a home of its own."""
        path = "/usr/lib/jvm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": str(self.directory), "LANG": "C.UTF-8", "TZ": "UTC"}

    def start(self) -> Self:
        """Start it, the first time with empty data, and wait until it serves."""
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        if not (self.directory / "prepared").exists():
            self.prepare()
            (self.directory / "prepared").touch()
        self._launch()
        self.wait_ready()
        return self

    def stop(self) -> None:
        """Stop it as its operator would, keeping the data."""
        self.thaw()
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int((self.directory / "main.pid").read_text()), self.stop_signal)
        if not wait_until(self._has_let_go, self.stop_seconds):
            self.kill()

    def kill(self) -> None:
        """Crash it: SIGKILL to all its processes at once."""
        send(self.directory, signal.SIGKILL)
        if not wait_until(self._has_let_go, 10):
            raise RuntimeError(f"{self.name} survived SIGKILL")

    def restart(self) -> Self:
        """Stop and start it, on the same port and data."""
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """Stop all its processes in their tracks: connections stay open and nobody answers."""
        send(self.directory, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        send(self.directory, signal.SIGCONT)

    def destroy(self) -> None:
        """Crash it and delete its data; the end of a server of one test."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Say whether any of its processes lives, frozen ones too."""
        return not self._has_ended()

    def wait_ready(self, seconds: float | None = None) -> None:
        """Wait until it serves; an error carries the end of its log."""
        limit = self.start_seconds if seconds is None else seconds
        if not wait_until(lambda: self.is_ready() or self._has_ended(), limit, interval=0.05):
            raise RuntimeError(f"{self.name} is not ready after {limit:g} s:\n{self.log_tail()}")
        if self._has_ended():
            raise RuntimeError(f"{self.name} ended while starting:\n{self.log_tail()}")

    def log_tail(self, lines: int = 30) -> str:
        """Give the end of what the server printed."""
        try:
            return "\n".join((self.directory / "server.log").read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def run(self, command: list[str], seconds: float = 60) -> str:
        """Run one of the server's own tools to its end, as the server's user, and give what it printed."""
        done = subprocess.run(
            command,
            env=self.environment(),
            cwd="/",  # not the server's directory, so that no signal to the server meets it
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            user=self._user(),
            group=self._user(),
            extra_groups=[] if self._user() else None,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def reap(self) -> None:
        """Take note that somebody else ended it: the watchdog, at the end of the run."""
        if self._process is not None:
            self._process.wait()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.destroy()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def _launch(self) -> None:
        with open(self.directory / "server.log", "ab") as log:
            log.write(f"--- {time.strftime('%H:%M:%S')} {' '.join(self.command())}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
                user=self._user(),
                group=self._user(),
                extra_groups=[] if self._user() else None,
            )
        (self.directory / "main.pid").write_text(str(self._process.pid))

    def _has_ended(self) -> bool:
        if self._process is not None and self._process.poll() is None:
            return False
        return not processes_in(self.directory)

    def _has_let_go(self) -> bool:
        return self._has_ended() and not accepts_connections(self.port)  # threads may still hold the listening socket

    def _user(self) -> str | None:
        return self.user if os.geteuid() == 0 else None

    def _give(self, directory: Path) -> None:
        if user := self._user():
            try:
                shutil.chown(directory, user, user)
            except LookupError as error:
                raise ServerUnavailable(f"there is no user {user}, whom {self.name} runs as") from error


def find_program(name: str, *directories: str) -> str:
    """Find an installed program, also where Debian keeps it out of the path."""
    found = shutil.which(name, path=os.pathsep.join([*directories, os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise ServerUnavailable(f"{name} is not installed (`make servers`)")
    return found
