"""From a URL to a store."""

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError

from scheduler.extras import lacking
from scheduler.storage.storage import Options, Storage

DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
"""The databases, and the driver for each."""

_CONNECT: dict[str, dict[str, object]] = {
    "sqlite": {},
    # A connection whose peer is gone without a word must fail before the server is held for dead.
    "postgresql": {
        "connect_timeout": 5,
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "application_name": "jobbridge",
    },
    "mysql": {"connect_timeout": 5, "read_timeout": 30, "write_timeout": 30},
}


def parse_url(url: str, username: str | None = None, password: str | None = None) -> URL:
    """A store's URL with our driver and the credentials in it, which win over the URL's own.

    :raises ValueError: for what is no URL, or a database that is not supported. The text holds no secret.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("not a database URL: write sqlite:///FILE, postgresql://... or mysql://...") from None
    database = parsed.get_backend_name()
    if database not in DRIVERS:
        raise ValueError(f"the database {database!r} is not supported: use {', '.join(DRIVERS)}")
    if parsed.drivername not in (database, DRIVERS[database], "mariadb+pymysql"):
        raise ValueError(f"the driver of {parsed.drivername!r} is not supported: write {DRIVERS[database]}://...")
    if username is not None:
        parsed = parsed.set(username=username)
    if password is not None:
        parsed = parsed.set(password=password)
    return parsed.set(drivername=DRIVERS[database])


def open_storage(
    url: str,
    *,
    username: str | None = None,
    password: str | None = None,
    pool_size: int = 10,
    options: Options | None = None,
) -> Storage:
    """The store at this URL. Nothing is connected until a verb needs it.

    :param pool_size: connections kept; more are opened for a while where threads ask at once.
    :raises ValueError: as `parse_url`.
    :raises ModuleNotFoundError: where the database's driver is not installed.
    """
    parsed = parse_url(url, username, password)
    database = parsed.get_backend_name()
    if database == "mysql" and (needs := lacking("mysql", "pymysql")):
        raise ModuleNotFoundError(f"the database {database!r} {needs}", name="pymysql")
    engine = create_engine(
        parsed,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_size=pool_size,
        max_overflow=20,
        pool_timeout=5,
        pool_recycle=1800,
        hide_parameters=True,
        connect_args=_CONNECT[database],
    )
    opened = _storage_class(database)
    return opened(engine, options or Options())


def _storage_class(database: str) -> type[Storage]:
    # One driver in a process, not three.
    if database == "postgresql":
        from scheduler.storage.postgresql import PostgreSQL

        return PostgreSQL
    if database == "mysql":
        from scheduler.storage.mysql import MySQL

        return MySQL
    from scheduler.storage.sqlite import SQLite

    return SQLite
