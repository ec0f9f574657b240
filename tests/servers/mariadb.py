"""MariaDB with its defaults, and with them its largest packet of 16 MB."""

import os
from pathlib import Path
from typing import ClassVar

import pymysql

from tests.servers.server import Server, find_program

USER = "jobbridge"
PASSWORD = "jobbridge"

_FIRST_STATEMENTS = f"""\
CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'%' WITH GRANT OPTION;
"""


class MariaDB(Server):
    """Reads none of the system's option files. The user has every right and a password."""

    name: ClassVar[str] = "MariaDB"
    user: ClassVar[str | None] = "mysql"

    def __init__(
        self,
        run_directory: Path | None = None,
        *,
        directory: Path | None = None,
        port: int = 0,
        settings: dict[str, str] | None = None,
    ) -> None:
        """The settings are the server's variables, as in `{"max_allowed_packet": "1M"}`."""
        super().__init__(run_directory, directory=directory, port=port)
        self.settings = {
            "bind-address": "127.0.0.1",
            "skip-name-resolve": "ON",
            "max-connections": "200",
            "innodb-buffer-pool-size": "64M",
            "default-time-zone": "+00:00",
        } | (settings or {})

    @property
    def url(self) -> str:
        return f"mysql+pymysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/mysql"

    def prepare(self) -> None:
        statements = self.directory / "first.sql"
        statements.write_text(_FIRST_STATEMENTS)
        statements.chmod(0o644)
        options = ["--skip-test-db", "--auth-root-authentication-method=normal", f"--datadir={self._data}"]
        self.run([find_program("mariadb-install-db"), "--no-defaults", *options])

    def command(self) -> list[str]:
        own = {
            "datadir": self._data,
            "port": self.port,
            "socket": self.directory / "socket",
            "pid-file": self.directory / "pid",
            "init-file": self.directory / "first.sql",
        }
        options = [f"--{key}={value}" for key, value in (own | self.settings).items()]
        return [find_program("mariadbd"), "--no-defaults", *options]

    def is_ready(self) -> bool:
        try:
            self.execute("SELECT 1")
        except pymysql.OperationalError:
            return False
        return True

    def execute(self, statement: str) -> None:
        """Run one statement with every right."""
        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, connect_timeout=5, autocommit=True
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PATH": os.pathsep.join([os.defpath, "/usr/sbin"])}
