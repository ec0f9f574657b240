"""What a database's error means to us: wait, try again at once, or it is the statement's own fault."""

import sqlite3
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout


class StoreUnavailable(Exception):
    """The database can't be reached or can't write now. Nothing is known of the statement's fate: do it again."""


class SchemaOutdated(Exception):
    """The tables are missing, or older or newer than this program."""


class Meaning(Enum):
    UNAVAILABLE = auto()
    """Gone, starting, read-only, full: wait."""
    CONTENDED = auto()
    """A deadlock, a lock wait that took too long: the statement was rolled back, try again at once."""
    NO_SCHEMA = auto()
    OTHER = auto()


_POSTGRESQL = {
    "40P01": Meaning.CONTENDED,
    "40001": Meaning.CONTENDED,
    "55P03": Meaning.CONTENDED,
    "42P01": Meaning.NO_SCHEMA,
    "25006": Meaning.UNAVAILABLE,  # read-only: the old primary after a fail-over
    "25P03": Meaning.UNAVAILABLE,  # idle in transaction for too long: the connection was ended
}
_POSTGRESQL_CLASSES = ("08", "53", "57", "58")
"""Connection exceptions, out of disk, memory or connections, shutting down, system errors."""

_MYSQL = {
    1213: Meaning.CONTENDED,
    1205: Meaning.CONTENDED,
    1020: Meaning.CONTENDED,
    1146: Meaning.NO_SCHEMA,
} | dict.fromkeys(
    (1021, 1030, 1037, 1040, 1041, 1053, 1114, 1129, 1158, 1159, 1160, 1161, 1203, 1290, 1792, 1836, 1927, 3024, 4031),
    Meaning.UNAVAILABLE,
)
# What PostgreSQL, too, refuses while it connects: a user without a right or with too many connections, no database.
_MYSQL |= dict.fromkeys((1044, 1045, 1049, 1226), Meaning.UNAVAILABLE)

_SQLITE = {
    sqlite3.SQLITE_BUSY: Meaning.CONTENDED,
    sqlite3.SQLITE_LOCKED: Meaning.CONTENDED,
} | dict.fromkeys(
    (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN), Meaning.UNAVAILABLE
)


def meaning(error: Exception) -> Meaning:
    """What an exception from SQLAlchemy means, by the server's own code."""
    if isinstance(error, PoolTimeout | PendingRollbackError):
        return Meaning.UNAVAILABLE
    if not isinstance(error, DBAPIError) or error.orig is None:
        return Meaning.OTHER
    if error.connection_invalidated:
        return Meaning.UNAVAILABLE
    original = error.orig
    number = original.args[0] if original.args else None
    if isinstance(number, int):
        lost = 2000 <= number < 3000
        return Meaning.UNAVAILABLE if lost else _MYSQL.get(number, Meaning.OTHER)
    state = getattr(original, "sqlstate", None)
    if isinstance(state, str):
        if state[:2] in _POSTGRESQL_CLASSES:
            return Meaning.UNAVAILABLE
        return _POSTGRESQL.get(state, Meaning.OTHER)
    sqlite_code = getattr(original, "sqlite_errorcode", None)
    if isinstance(sqlite_code, int):
        if isinstance(error, OperationalError) and "no such table" in str(original):
            return Meaning.NO_SCHEMA
        return _SQLITE.get(sqlite_code & 0xFF, Meaning.OTHER)
    # A driver's error without a code is raised while it connects, or by a connection that broke under it.
    if isinstance(error, OperationalError | InterfaceError) and not isinstance(error, ProgrammingError):
        return Meaning.UNAVAILABLE
    return Meaning.OTHER


def first_line(error: BaseException) -> str:
    """The first line of the driver's own message: without the statement and its parameters, which hold bodies."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(original).strip().splitlines()
    return f"{type(original).__name__}: {text[0]}" if text else type(original).__name__
