"""A fresh, empty database for each test, on any database server that a URL names."""

import contextlib
import uuid
from collections.abc import Iterator

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool


@contextlib.contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """Create a database with a random name, give its URL, and drop it though connections were left open."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    url = make_url(server_url)
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    on_mariadb = engine.dialect.name in ("mysql", "mariadb")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}" + (" CHARACTER SET utf8mb4" if on_mariadb else "")))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            if on_mariadb:
                _end_connections(connection, name)
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}" + ("" if on_mariadb else " WITH (FORCE)")))


def _end_connections(connection: Connection, name: str) -> None:
    """End what else is connected to the database: an open transaction of a test would block the drop for ever."""
    ids = connection.scalars(text("SELECT id FROM information_schema.processlist WHERE db = :name"), {"name": name})
    for connection_id in ids.all():
        with contextlib.suppress(DBAPIError):  # gone meanwhile
            connection.execute(text(f"KILL {connection_id:d}"))
