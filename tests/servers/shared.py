"""One server of each kind for a whole run, also where the run has several processes.

The first process that asks for a server starts it under a file lock and leaves a note of where it is; the others read
the note. The run's watchdog ends it, so nobody counts who still uses it.
"""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers.kafka import Kafka, Tansu, best_kafka
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import Server, ServerUnavailable

KINDS: dict[str, Callable[[], type[Server]]] = {
    "PostgreSQL": lambda: PostgreSQL,
    "MariaDB": lambda: MariaDB,
    "RabbitMQ": lambda: RabbitMQ,
    "Kafka": best_kafka,
}
_CLASSES: dict[str, type[Server]] = {kind.name: kind for kind in (PostgreSQL, MariaDB, RabbitMQ, Kafka, Tansu)}


class SharedServers:
    """The servers of the run whose directory is given, as one of its processes sees them."""

    def __init__(self, run_directory: Path) -> None:
        self._run_directory = run_directory
        self._known: dict[str, Server] = {}

    def get(self, kind: str) -> Server:
        """Give the run's server of this kind, started if need be. Raises ServerUnavailable."""
        if kind not in self._known:
            self._known[kind] = self._find_or_start(kind)
        return self._known[kind]

    def own(self, kind: str) -> Server:
        """Make another server of this kind, not started, for one test alone."""
        try:
            return KINDS[kind]()(self._run_directory)
        except ServerUnavailable as reason:
            self.note_missing(kind, reason)
            raise

    def note_missing(self, kind: str, reason: ServerUnavailable) -> None:
        """Remember for the end of the run that the server can't be had."""
        (self._run_directory / f"{kind}.missing").write_text(str(reason))

    def missing(self) -> dict[str, str]:
        """Tell which servers can't be had, and why."""
        return {note.stem: note.read_text() for note in sorted(self._run_directory.glob("*.missing"))}

    def tansu_is_used(self) -> bool:
        """Say whether the stand-in for Kafka was used."""
        return any(self._run_directory.glob("tansu-*"))

    def reap(self) -> None:
        """Take note that the watchdog ended them all."""
        for server in self._known.values():
            server.reap()

    def _find_or_start(self, kind: str) -> Server:
        note = self._run_directory / f"{kind}.json"
        missing = self._run_directory / f"{kind}.missing"
        with open(self._run_directory / f"{kind}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if missing.exists():
                raise ServerUnavailable(missing.read_text())
            if note.exists():
                place = json.loads(note.read_text())
                return _CLASSES[place["name"]](directory=Path(place["directory"]), port=place["port"])
            try:
                server = KINDS[kind]()(self._run_directory).start()
            except ServerUnavailable as reason:
                self.note_missing(kind, reason)
                raise
            place = {"name": server.name, "directory": str(server.directory), "port": server.port}
            note.write_text(json.dumps(place))
            return server


class External:
    """A server that the environment names: used as it is, never started, stopped, or looked into."""

    is_external = True
    is_real = True

    def __init__(self, variable: str, url: str) -> None:
        self._variable = variable
        self.url = url
        self.bootstrap = url.removeprefix("kafka://")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"{self._variable} names a server that tests may use but not control (`{name}`)")
