"""The migrated schema is what the statements are written for, on every database and by any number of migrators."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pymysql.constants import CLIENT
from sqlalchemy import inspect, text, update
from sqlalchemy.exc import DBAPIError

from scheduler.storage import Act, SchemaOutdated, Storage, open_storage
from scheduler.storage.records import Outcome
from scheduler.storage.tables import SCHEMA_VERSION, VERSION_TABLE, jobs, metadata
from tests.conformance.stores import RACERS, A, Racers, force, job, put, some_jobs, standing_still

KEY = job("k").id


@pytest.fixture
def fresh(store_url: str) -> Iterator[Storage]:
    """Give a store whose database is empty."""
    opened = open_storage(store_url)
    yield opened
    opened.close()


def test_the_migrated_tables_are_those_of_the_statements(storage: Storage) -> None:
    """Alembic finds no difference but `seq` and the indexes, which stand in the migrations alone."""

    def is_declared(thing: object, name: str | None, kind: str, reflected: bool, _: object) -> bool:
        return kind == "table" or not (kind in ("index", "unique_constraint") or (kind == "column" and name == "seq"))

    with storage.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": VERSION_TABLE, "include_object": is_declared, "compare_type": True},
        )
        differences = compare_metadata(context, metadata)
    assert differences == []


def test_the_indexes_are_those_that_the_statements_need(storage: Storage) -> None:
    """The claim's, and on PostgreSQL and SQLite one for each waiting state, under a unique id."""
    inspector = inspect(storage.engine)
    indexes = {
        str(one["name"]): one["column_names"] for one in inspector.get_indexes("jobbridge_jobs") if not one["unique"]
    }
    unique = [one["column_names"] for one in inspector.get_unique_constraints("jobbridge_jobs")]
    key = inspector.get_pk_constraint("jobbridge_jobs")["constrained_columns"]
    if storage.engine.dialect.name == "mysql":
        assert (key, unique) == (["seq"], [["id"]])
        assert indexes == {
            "jobbridge_jobs_claim": ["state", "lane", "due_at"],
            "jobbridge_jobs_expiring": ["state", "expires_at"],
            "jobbridge_jobs_locked": ["lock_key", "state", "lane", "due_at"],
            "jobbridge_jobs_limited": ["limit_key", "state", "lane", "due_at"],
        }
    else:
        assert key == ["id"]
        assert indexes == {
            "jobbridge_jobs_enqueued": ["lane", "due_at"],
            "jobbridge_jobs_scheduled": ["due_at"],
            "jobbridge_jobs_processing": ["owner"],
            "jobbridge_jobs_finished": ["state", "due_at"],
            "jobbridge_jobs_expiring": ["expires_at"],
            "jobbridge_jobs_locked": ["lock_key", "due_at"],
            "jobbridge_jobs_limited": ["limit_key", "lane", "due_at"],
            "jobbridge_jobs_limited_runs": ["limit_key"],
        }


def test_a_second_row_under_one_id_is_refused(storage: Storage) -> None:
    """By the database, whatever statement tries it."""
    put(storage, [job("one"), job("two")])
    with pytest.raises(DBAPIError), storage.engine.connect() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job("one").id).values(id=job("two").id))


def test_postgresql_vacuums_the_jobs_early(postgresql_url: str) -> None:
    """The table's hot part turns over fast."""
    storage = open_storage(postgresql_url)
    storage.migrate()
    with storage.engine.connect() as connection:
        options = connection.scalar(text("SELECT reloptions FROM pg_class WHERE relname = 'jobbridge_jobs'"))
    storage.close()
    assert sorted(options) == ["autovacuum_analyze_scale_factor=0.01", "autovacuum_vacuum_scale_factor=0.01"]


def test_an_empty_database_says_what_to_do(fresh: Storage) -> None:
    """No table: every verb and the check name the command; a version of the past is told, one of the future is not."""
    assert fresh.schema_version() is None
    with pytest.raises(
        SchemaOutdated, match=rf"has no tables of jobbridge, version {SCHEMA_VERSION} .* run `jobbridge migrate`"
    ):
        fresh.check_schema()
    with pytest.raises(SchemaOutdated, match="run `jobbridge migrate`"):
        fresh.claim(A, ["h"], 1)
    with pytest.raises(SchemaOutdated, match="run `jobbridge migrate`"):
        fresh.insert_if_absent([job("k")], token=1)
    assert fresh.migrate()
    assert not fresh.migrate()
    fresh.check_schema()
    assert fresh.schema_version() == SCHEMA_VERSION
    for version, fits in (("0000", False), ("9999", True)):
        with fresh.engine.connect() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
        if fits:
            fresh.check_schema()
            assert not fresh.migrate()
        else:
            with pytest.raises(SchemaOutdated, match=f"is at version 0000, version {SCHEMA_VERSION} is needed"):
                fresh.check_schema()


def migrate(storage: Storage, _: object) -> bool:
    """Migrate as a starting pod does; whether this process changed something, or found nothing to do."""
    storage.migrate()
    storage.check_schema()
    return True


def _shape(storage: Storage) -> dict[str, object]:
    """The tables, their columns, keys and indexes."""
    inspector = inspect(storage.engine)
    views: dict[str, object] = {view: inspector.get_view_definition(view) for view in inspector.get_view_names()}
    return views | {
        table: (
            [(one["name"], str(one["type"]), one["nullable"]) for one in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted((str(one["name"]), one["column_names"]) for one in inspector.get_indexes(table)),
            sorted(one["column_names"] for one in inspector.get_unique_constraints(table)),
        )
        for table in inspector.get_table_names()
    }


def _apply(storage: Storage, statements: str) -> None:
    """As one script, by the driver alone."""
    if storage.engine.dialect.name == "mysql":
        url = storage.engine.url.update_query_dict({"client_flag": str(CLIENT.MULTI_STATEMENTS)})
        storage = open_storage(url.render_as_string(hide_password=False))
    driver = storage.engine.raw_connection()
    cursor = driver.cursor()
    if isinstance(cursor, sqlite3.Cursor):
        cursor.executescript(statements)
    else:
        cursor.execute(statements)
        while cursor.nextset():
            pass
    driver.close()
    storage.close()


def test_the_printed_statements_are_those_of_the_migration(fresh: Storage) -> None:
    """On an empty database all of them, on an older one the rest; asking for them changes nothing."""
    everything = fresh.migration_sql()
    first, _, later = everything.partition("-- Running upgrade 0001 -> 0002\n")
    assert fresh.schema_version() is None and inspect(fresh.engine).get_table_names() == []
    _apply(fresh, first)
    assert fresh.schema_version() == "0001"
    assert fresh.migration_sql().partition("0001 -> 0002\n")[2] == later
    assert fresh.schema_version() == "0001"
    _apply(fresh, later)
    assert fresh.migration_sql() == ""
    assert not fresh.migrate()
    printed = _shape(fresh)
    with fresh.engine.connect() as connection:
        connection.execute(text("DROP VIEW jobbridge_backlog"))
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
    assert fresh.migrate()
    assert _shape(fresh) == printed


def test_a_store_that_is_in_use_is_migrated(fresh: Storage) -> None:
    """From the version before: its rows stand, what waits is in the view at once, and its pods go on beside ours."""
    before, _, _ = fresh.migration_sql().partition("-- Running upgrade 0002 -> 0003\n")
    _apply(fresh, before)
    put(fresh, some_jobs(3))
    fresh.claim(A, ["h"], 1)
    assert fresh.schema_version() == "0002"
    with pytest.raises(SchemaOutdated, match="is at version 0002"):
        fresh.check_schema()
    assert fresh.migrate()
    assert [(row.route, row.waiting) for row in fresh.backlog_by_route()] == [("r", 2)]
    assert fresh.series(60, 1) == []
    assert len(fresh.claim(A, ["h"], 5)) == 2


def test_processes_that_migrate_at_once_all_succeed(fresh: Storage, racers: Racers) -> None:
    """Six pods that start on an empty database: each goes on, and the tables are whole."""
    url = fresh.engine.url.render_as_string(hide_password=False)
    assert racers.race(migrate, url, range(RACERS)) == [True] * RACERS
    assert fresh.schema_version() == SCHEMA_VERSION
    assert set(metadata.tables) <= set(inspect(fresh.engine).get_table_names())
    put(fresh, [job("k")])


def test_a_connection_is_set_up_as_the_statements_need_it(storage: Storage) -> None:
    """Isolation, zone, lock waits, idle transactions: on each new connection, after the pool was dropped too."""
    wanted = {
        "sqlite": {"PRAGMA journal_mode": "wal", "PRAGMA busy_timeout": 10000, "PRAGMA synchronous": 2},
        "postgresql": {
            "SHOW default_transaction_isolation": "read committed",
            "SHOW lock_timeout": "5s",
            "SHOW idle_in_transaction_session_timeout": "5s",
            "SHOW timezone": "UTC",
        },
        "mysql": {
            "SELECT @@tx_isolation": "READ-COMMITTED",
            "SELECT @@time_zone": "+00:00",
            "SELECT @@innodb_lock_wait_timeout": 5,
            "SELECT @@idle_transaction_timeout": 5,
            "SELECT @@sql_mode LIKE '%STRICT_TRANS_TABLES%'": 1,
        },
    }[storage.engine.dialect.name]
    for _ in range(2):
        with storage.engine.connect() as connection:
            assert {query: connection.scalar(text(query)) for query in wanted} == wanted
        storage.engine.dispose()


SHORT_WAITS = {
    "sqlite": "PRAGMA busy_timeout = 50",
    "postgresql": "SET lock_timeout = '50ms'",
    "mysql": "SET innodb_lock_wait_timeout = 0",
}

WAITING: dict[str, tuple[str, Callable[[Storage], object], object]] = {
    "delete": ("jobbridge_jobs", lambda storage: storage.delete(KEY), Act.DONE),
    "insert": ("jobbridge_jobs", lambda storage: storage.insert_if_absent([job("k")], token=1)[0].outcome, Outcome.NEW),
    "beat": ("jobbridge_servers", lambda storage: storage.beat(A, "{}"), True),
    "remove": ("jobbridge_servers", lambda storage: storage.remove_silent(A, storage.servers()[0].beat), True),
    "unregister": ("jobbridge_servers", lambda storage: storage.unregister(A), None),
}


@pytest.mark.parametrize("name", WAITING)
def test_a_lock_that_is_held_too_long_is_waited_for_by_trying_again(storage: Storage, name: str) -> None:
    """A lock wait that ran out is nobody's failure: the verb is done again until it succeeds."""
    table, verb, answer = WAITING[name]
    put(storage, [job("k")])
    storage.register(A, host="h", pid=1, interval_us=1, status="{}")
    waiting = open_storage(storage.engine.url.render_as_string(hide_password=False), pool_size=1)
    with waiting.engine.connect() as connection:
        connection.exec_driver_sql(SHORT_WAITS[storage.engine.dialect.name])
    tried_again = threading.Event()
    waiting.sleep = lambda _: tried_again.set()
    with ThreadPoolExecutor(1) as pool:
        with storage.transaction() as holding:
            holding.execute(text(f"UPDATE {table} SET id = id, {'rescues' if 'jobs' in table else 'pid'} = 2"))
            if name == "insert":
                holding.execute(text("DELETE FROM jobbridge_jobs"))
            answered = pool.submit(verb, waiting)
            while not tried_again.wait(0.01):
                assert not answered.done(), answered.result()
        assert answered.result(30) == answer
    waiting.close()


def test_a_clock_of_a_test_does_not_outlive_its_storage(storage: Storage) -> None:
    """Two storages of one database may have clocks of their own."""
    url = storage.engine.url.render_as_string(hide_password=False)
    early, late = (open_storage(url, options=standing_still(now)) for now in (1000, 2000))
    assert (early.clock(), late.clock(), early.clock()) == (1000, 2000, 1000)
    put(early, [job("k")])
    force(early, job("k").id, state="SCHEDULED", due_at=1500)
    assert (early.promote(), late.promote()) == (0, 1)
    early.close()
    late.close()
