"""At 100,000 rows no verb of the hot path reads the table from end to end, prepared and generic plans included."""

import re
from collections.abc import Callable, Iterator
from hashlib import md5
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event

from scheduler.job import JobState
from scheduler.storage import Storage, open_storage, postgresql
from scheduler.storage.acts import REQUEUE, Doing
from scheduler.storage.records import Finish
from tests.conformance.stores import A, B, job, some_jobs

ROWS = 100_000

# Mostly finished rows, as in a store that has run for a while; 5,000 wait, 1,000 are scheduled, 500 run.
_STATE = """
    CASE WHEN mod(n, 20) = 0 THEN 'ENQUEUED' WHEN mod(n, 100) = 1 THEN 'SCHEDULED'
         WHEN mod(n, 200) = 2 THEN 'PROCESSING' WHEN mod(n, 50) = 3 THEN 'FAILED' ELSE 'SUCCEEDED' END
"""
_COLUMNS = """
    id, version, state, lane, due_at, owner, token, attempts, rescues, created_at, digest, namespace,
    correlation_bytes, correlation_length, correlation_id, route, handler, source, headers, body
"""
_POSTGRESQL = f"""
    INSERT INTO jobbridge_jobs ({_COLUMNS})
    SELECT decode(md5(n::text), 'hex'), 1, {_STATE}, 0, 1700000000000000 + n, decode(md5('owner'), 'hex'), n, 0, 0, n,
        decode(md5('body'), 'hex'), 'n', n::text::bytea, 5, n::text, 'r', 'h', 's', '{{}}', '{{}}'
    FROM generate_series(1, {ROWS}) AS n
"""
_MARIADB = f"""
    INSERT INTO jobbridge_jobs ({_COLUMNS})
    SELECT UNHEX(MD5(seq)), 1, {_STATE.replace("(n,", "(seq,")}, 0, 1700000000000000 + seq, UNHEX(MD5('owner')), seq,
        0, 0, seq, UNHEX(MD5('body')), 'n', seq, 5, seq, 'r', 'h', 's', '{{}}', '{{}}'
    FROM seq_1_to_{ROWS}
"""


def _seen(number: int) -> Any:
    """So many jobs as an operator decided on them."""
    keys = (md5(str(n).encode(), usedforsecurity=False).digest() for n in range(3, 50 * number, 50))
    return [SimpleNamespace(id=key, version=1, state="FAILED", lock_key=None) for key in keys]


VERBS: dict[str, Callable[[Storage], object]] = {
    "claim": lambda storage: storage.claim(A, ["h", "g"], 50),
    "claim of an empty lane": lambda storage: storage.claim(A, ["h"], 1, 2),
    "claim of a handler that no row has": lambda storage: storage.claim(A, ["none"], 50),
    "claim past a paused route": lambda storage: storage.claim(A, ["h"], 50, 0, ["other"]),
    "peek": lambda storage: storage.peek(["h"]),
    "peek past a paused route": lambda storage: storage.peek(["h"], paused=["r"]),
    "finish": lambda storage: storage.finish([Finish(one.id, 1, A, JobState.SUCCEEDED, 1) for one in some_jobs(500)]),
    "finish with an event": lambda storage: storage.finish([Finish(job(1).id, 1, A, JobState.FAILED, 1)]),
    "promote": lambda storage: storage.promote(),
    "next due": lambda storage: storage.next_due(),
    "standing": lambda storage: storage.standing(B),
    "held": lambda storage: storage.held(B, [one.id for one in some_jobs(50)]),
    "owners": lambda storage: storage.owners(),
    "rescue": lambda storage: storage.rescue(B, max_rescues=3, retention_us=1),
    "purge": lambda storage: storage.purge(100),
    "insert": lambda storage: storage.insert_if_absent(some_jobs(50), token=1),
    "look first": lambda storage: storage.insert_if_absent(some_jobs(50), token=1, look_first=True),
    "requeue": lambda storage: storage.requeue(job(1).id),
    "delete": lambda storage: storage.delete(job(1).id),
    "backlog by route": lambda storage: storage.backlog_by_route(),
    "survey": lambda storage: storage.survey(),
    "backlog": lambda storage: storage.backlog(1000),
    "a batch of acts": lambda storage: storage._write(Doing(REQUEUE), _seen(500)),
}

Sent = list[tuple[str, object]]


def sent_by(storage: Storage, verb: Callable[[Storage], object]) -> Sent:
    """The statements on jobs' rows that a verb sends, each with its parameters."""
    sent: Sent = []

    def note(connection: Connection, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "jobbridge_jobs" in statement or "jobbridge_backlog" in statement:
            sent.append((statement, parameters))

    event.listen(storage.engine, "before_cursor_execute", note)
    verb(storage)
    event.remove(storage.engine, "before_cursor_execute", note)
    assert sent
    return sent


def filled(url: str, statement: str) -> Iterator[Storage]:
    storage = open_storage(url)
    try:
        storage.migrate()
        with storage.engine.connect() as connection:
            connection.exec_driver_sql(statement)
            connection.exec_driver_sql("ANALYZE " + ("TABLE " if "seq_1" in statement else "") + "jobbridge_jobs")
        yield storage
    finally:
        storage.close()


@pytest.fixture
def postgresql_store(postgresql_url: str) -> Iterator[Storage]:
    """Give a PostgreSQL with 100,000 jobs."""
    yield from filled(postgresql_url, _POSTGRESQL)


@pytest.fixture
def mariadb_store(mariadb_url: str) -> Iterator[Storage]:
    """Give a MariaDB with 100,000 jobs."""
    yield from filled(mariadb_url, _MARIADB)


def generic_plan(connection: Connection, statement: str, parameters: object) -> str:
    """What PostgreSQL does once it has prepared the statement, as psycopg does after five runs."""
    assert isinstance(parameters, dict)
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    numbered = re.sub(r"%\((\w+)\)s", number, statement)
    connection.exec_driver_sql(f"PREPARE explained AS {numbered}")
    try:
        values = ", ".join(f"%({name})s" for name in names)
        call = f"EXECUTE explained ({values})" if names else "EXECUTE explained"
        driver = connection.connection.driver_connection
        assert driver is not None
        with psycopg.ClientCursor(driver) as cursor:
            cursor.execute(f"EXPLAIN {call}", {name: parameters[name] for name in names})
            return "\n".join(line for (line,) in cursor.fetchall())
    finally:
        connection.exec_driver_sql("DEALLOCATE explained")


def test_postgresql_reads_no_table_of_jobs_from_end_to_end(
    postgresql_store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement of the hot path under its generic plan: indexes alone."""
    storage = postgresql_store
    for packer in ("keys", "byteas", "texts", "integers"):  # a packed array can't be written into an EXECUTE
        monkeypatch.setattr(postgresql, packer, list)
    plans: dict[str, str] = {}
    for name, verb in VERBS.items():
        statements = sent_by(storage, verb)
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
            for k, (statement, parameters) in enumerate(statements):
                plans[f"{name} {k}"] = generic_plan(connection, statement, parameters)
            connection.exec_driver_sql("RESET plan_cache_mode")
    assert {name: plan for name, plan in plans.items() if "Seq Scan on jobbridge_jobs" in plan} == {}
    assert "jobbridge_jobs_enqueued" in plans["claim 0"]
    assert "jobbridge_jobs_finished" in plans["purge 0"]


def test_mariadb_claims_by_the_index_without_sorting(mariadb_store: Storage) -> None:
    """(state, lane, due_at) gives the order; no other statement of the hot path reads the whole table."""
    storage = mariadb_store
    plans: dict[str, list[dict[str, object]]] = {}
    for name, verb in VERBS.items():
        for k, (statement, parameters) in enumerate(sent_by(storage, verb)):
            if statement.startswith("INSERT"):
                continue
            with storage.engine.connect() as connection:
                found = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)  # type: ignore[arg-type]
                plans[f"{name} {k}"] = [dict(line) for line in found.mappings()]
    (claim,) = plans["claim 0"]
    assert (claim["key"], "filesort" in str(claim["Extra"])) == ("jobbridge_jobs_claim", False)
    whole = {
        name: plan
        for name, plan in plans.items()
        if any(line["table"] == "jobbridge_jobs" and line["type"] == "ALL" for line in plan)
    }
    assert whole == {}
