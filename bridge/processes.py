"""`run --processes N`: N pods on one machine, each a child process, watched by a parent.

A child that ends is started again, after a backoff. Its death is certain, so the parent strikes its server off at
once, and its jobs need not wait for the heartbeat's timeout.
"""

import os
import signal
import time
from collections.abc import Callable
from logging import getLogger
from types import FrameType

from bridge.assembly import store
from bridge.config.model import Configuration
from scheduler.storage import StoreUnavailable

log = getLogger("jobbridge.pod")

LONGEST_BACKOFF = 30.0
STEADY_SECONDS = 60.0
"""A child that lived so long is started again at once."""


class Child:
    """One slot: the process that fills it, and the server ids that it told through its pipe."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid: int | None = None
        self.pipe = -1
        self.failures = 0
        self.started = 0.0
        self.due = 0.0

    def servers(self) -> list[bytes]:
        """The ids that the child told; 16 bytes each."""
        told = b""
        while chunk := os.read(self.pipe, 4096):
            told += chunk
        os.close(self.pipe)
        return [told[at : at + 16] for at in range(0, len(told) - 15, 16)]


class Parent:
    """Starts the children, starts them again, ends with them. It has no thread and keeps no connection: it forks."""

    def __init__(self, configuration: Configuration, number: int, pod: Callable[[Configuration, int], int]) -> None:
        self._configuration = configuration
        self._children = [Child(k) for k in range(number)]
        self._pod = pod
        self._signals = 0
        self._worst = 0

    def run(self) -> int:
        """Until a signal; the worst exit code of the children's own ends."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        while True:
            now = time.monotonic()
            for child in self._children:
                if child.pid is None and not self._signals and child.due <= now:
                    self._start(child)
            if self._signals and all(child.pid is None for child in self._children):
                return self._worst
            self._reap()
            time.sleep(0.05)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._signals += 1
        for child in self._children:
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)

    def _start(self, child: Child) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            # Its own group: a terminal's Ctrl-C reaches the parent alone, which then tells each child once.
            os.setpgid(0, 0)
            code = 1
            try:
                code = self._pod(_named(self._configuration, child.number), writing)
            finally:
                os._exit(code)
        os.close(writing)
        child.pid, child.pipe, child.started = pid, reading, time.monotonic()

    def _reap(self) -> None:
        for child in self._children:
            if child.pid is None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            code = os.waitstatus_to_exitcode(status)
            child.pid = None
            servers = child.servers()
            if self._signals:
                self._worst = max(self._worst, abs(code))
                continue
            child.failures = 0 if time.monotonic() - child.started > STEADY_SECONDS else child.failures + 1
            pause = min(LONGEST_BACKOFF, 0.1 * 2**child.failures) if child.failures else 0.0
            child.due = time.monotonic() + pause
            log.error("pod %d ended with %d, it is started again in %.1f s", child.number, code, pause)
            self._strike_off(servers)

    def _strike_off(self, servers: list[bytes]) -> None:
        storage = store(self._configuration, pool_size=1)
        try:
            for server in servers:
                storage.unregister(server)
        except StoreUnavailable:
            log.warning("the store does not answer: the dead pod's heartbeat has to time out")
        finally:
            storage.close()


def _named(configuration: Configuration, number: int) -> Configuration:
    """The child's own configuration: its name, its port and its heartbeat file."""
    own = {"name": f"{configuration.pod.name}-{number}"}
    if configuration.pod.heartbeat_file is not None:
        own["heartbeat_file"] = f"{configuration.pod.heartbeat_file}-{number}"
    pod = configuration.pod.model_copy(update=own)
    http = configuration.http
    if http is not None:
        http = http.model_copy(update={"port": http.port + number})
    return configuration.model_copy(update={"pod": pod, "http": http})
