"""A database driver that can fail: sqlite3 whose every statement passes a gate first and afterwards.

Above it everything is the product's own: SQLAlchemy, the error table, the pools, the verbs. A lost connection rolls its
transaction back, as a server does; a lost reply is a statement that took effect and then raised. Rows are fetched at
once, so that what a statement did is done when the gate is passed for the second time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from sqlalchemy import BigInteger, Engine, create_engine, func
from sqlalchemy.pool import QueuePool

from scheduler.storage import Storage, open_storage
from scheduler.storage.database import Options
from scheduler.storage.sqlite import SQLite

HISTORY = """
CREATE TABLE sim_history (
    seq INTEGER PRIMARY KEY, at REAL, clock INTEGER, writer INTEGER, op TEXT, id BLOB, version INTEGER,
    state TEXT, owner BLOB, attempts INTEGER, rescues INTEGER, due_at INTEGER, namespace TEXT,
    correlation BLOB, body BLOB, lane INTEGER, lock_key BLOB, limit_key BLOB, expires_at INTEGER
);
CREATE TABLE sim_effects (job BLOB, version INTEGER);
CREATE TRIGGER sim_inserted AFTER INSERT ON jobbridge_jobs BEGIN
    INSERT INTO sim_history VALUES (NULL, sim_time(), sim_now(), sim_writer(), 'insert', NEW.id, NEW.version,
        NEW.state, NEW.owner, NEW.attempts, NEW.rescues, NEW.due_at, NEW.namespace,
        NEW.correlation_bytes, NEW.body, NEW.lane, NEW.lock_key, NEW.limit_key, NEW.expires_at);
END;
CREATE TRIGGER sim_updated AFTER UPDATE ON jobbridge_jobs BEGIN
    INSERT INTO sim_history VALUES (NULL, sim_time(), sim_now(), sim_writer(), 'update', NEW.id, NEW.version,
        NEW.state, NEW.owner, NEW.attempts, NEW.rescues, NEW.due_at, NEW.namespace,
        NEW.correlation_bytes, NEW.body, NEW.lane, NEW.lock_key, NEW.limit_key, NEW.expires_at);
END;
CREATE TRIGGER sim_deleted AFTER DELETE ON jobbridge_jobs BEGIN
    INSERT INTO sim_history VALUES (NULL, sim_time(), sim_now(), sim_writer(), 'delete', OLD.id, OLD.version,
        OLD.state, OLD.owner, OLD.attempts, OLD.rescues, OLD.due_at, OLD.namespace,
        OLD.correlation_bytes, OLD.body, OLD.lane, OLD.lock_key, OLD.limit_key, OLD.expires_at);
END;
CREATE TRIGGER sim_letter AFTER INSERT ON jobbridge_dead_letters BEGIN
    INSERT INTO sim_history (at, writer, op, namespace, body)
        VALUES (sim_time(), sim_writer(), 'letter', NEW.source, NEW.body);
END;
CREATE TRIGGER sim_acked AFTER DELETE ON jobbridge_messages BEGIN
    INSERT INTO sim_history (at, writer, op, namespace, body)
        VALUES (sim_time(), sim_writer(), 'acked', OLD.queue, OLD.body);
END;
CREATE TRIGGER sim_effect AFTER INSERT ON sim_effects BEGIN
    INSERT INTO sim_history (at, writer, op, id, version)
        VALUES (sim_time(), sim_writer(), 'effect', NEW.job, NEW.version);
END;
CREATE TRIGGER sim_stepped AFTER UPDATE OF next_at ON jobbridge_recurring BEGIN
    INSERT INTO sim_history (at, clock, writer, op, namespace, state, due_at, expires_at, attempts)
        VALUES (sim_time(), sim_now(), sim_writer(), 'step', NEW.name, NEW.note, OLD.next_at, NEW.next_at,
            NEW.skipped - OLD.skipped);
END;
CREATE TRIGGER sim_registered AFTER INSERT ON jobbridge_servers BEGIN
    INSERT INTO sim_history (at, writer, op, id) VALUES (sim_time(), sim_writer(), 'register', NEW.id);
END;
CREATE TRIGGER sim_struck_off AFTER DELETE ON jobbridge_servers BEGIN
    INSERT INTO sim_history (at, writer, op, id) VALUES (sim_time(), sim_writer(), 'strike off', OLD.id);
END;
"""
"""What happened to every row, in order, written by the database itself: it can't be missed, and rolls back with it."""

NOW = func.sim_now(type_=BigInteger)


class Gate(Protocol):
    """Who decides what becomes of a statement. Both may raise, or let others run."""

    writer: int

    def before(self, connection: Connection, statement: str) -> None: ...
    def after(self, connection: Connection, statement: str) -> None: ...
    def connects(self) -> None: ...
    def now(self) -> int: ...
    def time(self) -> float: ...


class OpenGate:
    """Lets all pass: for an operator and a publisher, with whom nothing goes wrong."""

    def __init__(self, writer: int, now: Callable[[], int], time: Callable[[], float]) -> None:
        self.writer = writer
        self.now = now
        self.time = time

    def before(self, connection: Connection, statement: str) -> None: ...
    def after(self, connection: Connection, statement: str) -> None: ...
    def connects(self) -> None: ...


def lost(code: int, text: str) -> sqlite3.OperationalError:
    """An error of the driver, with a code that the product's table knows."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Connection(sqlite3.Connection):
    """One connection of a pod, or of the simulation itself."""

    gate: Gate
    is_lost = False

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(Cursor)

    def lose(self) -> None:
        """The server ends it: what was not committed is rolled back."""
        self.is_lost = True
        with contextlib.suppress(sqlite3.ProgrammingError):  # the pool has closed it
            if self.in_transaction:
                sqlite3.Connection.rollback(self)


class Cursor(sqlite3.Cursor):
    """Passes the gate, and has fetched all rows when it is through."""

    _rows: Iterator[Any] = iter(())

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        return self._through(sql, lambda: sqlite3.Cursor.execute(self, sql, parameters))

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor:
        return self._through(sql, lambda: sqlite3.Cursor.executemany(self, sql, parameters))

    def _through(self, sql: str, execute: Callable[[], object]) -> Cursor:
        connection = self.connection
        assert isinstance(connection, Connection)
        connection.gate.before(connection, sql)
        execute()
        self._rows = iter(sqlite3.Cursor.fetchall(self) if self.description else ())
        connection.gate.after(connection, sql)
        return self

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return [row for _, row in zip(range(size or 1), self._rows, strict=False)]


def open_raw(path: Path) -> sqlite3.Connection:
    """A connection that passes no gate, to read."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def make_template(path: Path) -> None:
    """An empty database of the product's schema, with the history."""
    storage = open_storage(f"sqlite:///{path}")
    storage.migrate()
    storage.close()
    raw = open_raw(path)
    raw.executescript(HISTORY)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()


class Driver:
    """Opens stores over gates. The dialect and its compiled statements are shared by all runs of a process."""

    def __init__(self) -> None:
        self._first = create_engine(
            "sqlite+pysqlite://", isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, hide_parameters=True
        )
        self._first.connect().close()  # the dialect learns the server's version
        self._compiled: dict[Any, Any] = {}

    def open(self, path: Path, gate: Gate, random: Random, sleep: Callable[[float], None], pool_size: int) -> Storage:
        """The product's store on SQLite, over connections that pass this gate."""

        def connect() -> Connection:
            gate.connects()
            opened = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Connection)
            opened.gate = gate
            opened.create_function("sim_now", 0, gate.now)
            opened.create_function("sim_time", 0, gate.time)
            opened.create_function("sim_writer", 0, lambda: gate.writer)
            sqlite3.Connection.execute(opened, "PRAGMA synchronous = OFF")
            return opened

        pool = QueuePool(connect, pool_size=pool_size, max_overflow=20, timeout=5)
        engine = Engine(pool, self._first.dialect, self._first.url, hide_parameters=True)
        engine.update_execution_options(compiled_cache=self._compiled)
        return SQLite(engine, Options(NOW, random, sleep))


def words(statement: str) -> str:
    """A statement's first word and its table, for a trace."""
    parts: Sequence[str] = statement.replace("(", " ").split()
    table = next((part for part in parts if part.startswith("jobbridge_")), "")
    return f"{parts[0]} {table.partition('.')[0].removeprefix('jobbridge_')}".strip()
