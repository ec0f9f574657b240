"""PostgreSQL: a cluster of its own, made by the newest version that is installed."""

import glob
import os
import signal
from pathlib import Path
from typing import ClassVar

import psycopg

from tests.servers.server import Server, find_program


class PostgreSQL(Server):
    """Trusts loopback; the superuser is `jobbridge`. Refuses to run as root, hence the user."""

    name: ClassVar[str] = "PostgreSQL"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": without waiting for clients to leave
    user: ClassVar[str | None] = "postgres"

    def __init__(
        self,
        run_directory: Path | None = None,
        *,
        directory: Path | None = None,
        port: int = 0,
        fsync: bool = True,
        settings: dict[str, str] | None = None,
    ) -> None:
        """Without fsync a crash of the machine may lose commits; a crash of the server does not."""
        super().__init__(run_directory, directory=directory, port=port)
        self.settings = {
            "fsync": "on" if fsync else "off",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
        } | (settings or {})

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://jobbridge@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        options = ["--auth=trust", "--username=jobbridge", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        self.run([self._program("initdb"), f"--pgdata={self._data}", *options])

    def command(self) -> list[str]:
        settings = [argument for key, value in self.settings.items() for argument in ("-c", f"{key}={value}")]
        return [self._program("postgres"), "-D", str(self._data), "-p", str(self.port), *settings]

    def is_ready(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement: str) -> None:
        """Run one statement as superuser, outside a transaction."""
        place = f"host=127.0.0.1 port={self.port} user=jobbridge dbname=postgres connect_timeout=5"
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(statement.encode())

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _program(self, name: str) -> str:
        def version(directory: str) -> float:
            return float(Path(directory).parent.name)

        return find_program(name, *sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=version, reverse=True))

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PATH": os.defpath}
