"""A database that goes away, hangs, loses a reply or can't write: verbs say so, and work again afterwards."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import cast

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from scheduler import JobContext, handlers
from scheduler.job import JobState
from scheduler.storage import Storage, StoreUnavailable, open_storage
from scheduler.storage.records import Finish, Inserted, Outcome
from scheduler.testing import Bench
from tests.conformance.stores import A, claimed, job, letter, letters, put, row, rows, some_jobs, success
from tests.faults.proxy import Proxy
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import wait_until

BOTH = pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
NEW_CLAIMED = Inserted(Outcome.NEW, True)

VERBS: dict[str, Callable[[Storage], object]] = {
    "insert": lambda storage: storage.insert_if_absent([job("new")], token=1),
    "look first": lambda storage: storage.insert_if_absent([job("new")], token=1, look_first=True),
    "insert with dead letters": lambda storage: storage.insert_if_absent([job("x")], token=1, rejected=[letter("l")]),
    "dead letters": lambda storage: storage.insert_dead_letters([letter("l")]),
    "peek": lambda storage: storage.peek(["h"]),
    "claim": lambda storage: storage.claim(A, ["h"], 1),
    "finish": lambda storage: storage.finish([Finish(b"k" * 16, 1, A, JobState.SUCCEEDED, 0)]),
    "standing": lambda storage: storage.standing(A),
    "promote": lambda storage: storage.promote(),
    "next due": lambda storage: storage.next_due(),
    "owners": lambda storage: storage.owners(),
    "rescue": lambda storage: storage.rescue(A, max_rescues=3, retention_us=1),
    "purge": lambda storage: storage.purge(),
    "register": lambda storage: storage.register(A, host="h", pid=1, interval_us=1, status="{}"),
    "beat": lambda storage: storage.beat(A, "{}"),
    "servers": lambda storage: storage.servers(),
    "remove": lambda storage: storage.remove_silent(A, 0),
    "publish": lambda storage: storage.publish("q", [("{}", b"")]),
    "receive": lambda storage: storage.receive("q", token=1, limit=1, max_bytes=1, visibility_us=1),
    "acknowledge": lambda storage: storage.acknowledge(1),
    "requeue": lambda storage: storage.requeue(b"k" * 16),
    "counts": lambda storage: storage.count_by_state(),
    "list": lambda storage: storage.list_jobs(),
    "clock": lambda storage: storage.clock(),
    "schema": lambda storage: storage.schema_version(),
}
READS = {"look first", "peek", "standing", "next due", "owners", "servers", "counts", "list", "clock", "schema"}


def assert_unavailable(storage: Storage, names: set[str]) -> None:
    for name in names:
        with pytest.raises(StoreUnavailable) as caught:
            VERBS[name](storage)
        assert "SELECT" not in str(caught.value), name
        assert "INSERT" not in str(caught.value), name


def assert_works(storage: Storage) -> None:
    """A whole life of a job, on connections that are set up as they should be."""
    put(storage, some_jobs(2, "after"))
    held = storage.claim(A, ["h"], 10)
    assert {one.correlation_id for one in held} >= {"after-0", "after-1"}
    assert storage.finish([success(one) for one in held]) == {one.key for one in held}
    with storage.engine.connect() as connection:
        if storage.engine.dialect.name == "postgresql":
            assert connection.scalar(text("SHOW lock_timeout")) == "5s"
        else:
            assert connection.scalar(text("SELECT @@time_zone")) == "+00:00"


@contextlib.contextmanager
def opened(url: str) -> Iterator[Storage]:
    storage = open_storage(url)
    try:
        yield storage
    finally:
        storage.close()


@pytest.fixture
def own(request: pytest.FixtureRequest, kind: str) -> PostgreSQL | MariaDB:
    return cast(PostgreSQL | MariaDB, request.getfixturevalue(f"own_{kind}"))


@BOTH
def test_a_killed_database_is_unavailable_and_works_again_after_its_restart(own: PostgreSQL | MariaDB) -> None:
    """Every verb says so, nothing that was committed is lost, and the same storage goes on."""
    with opened(own.url) as storage:
        storage.migrate()
        (held,) = claimed(storage)
        number = storage.register(A, host="h", pid=1, interval_us=1, status="{}")
        storage.unregister(A)
        own.kill()
        assert_unavailable(storage, set(VERBS))
        assert not storage.answers()
        own.start()
        assert storage.answers()
        assert storage.finish([success(held)]) == {held.key}
        assert storage.register(A, host="h", pid=1, interval_us=1, status="{}") > number
        assert_works(storage)
        own.restart()  # pooled connections are dead, and nobody was told
        with contextlib.suppress(StoreUnavailable):
            storage.peek(["h"])
        put(storage, [job("restarted")])
        assert row(storage, job("restarted").id)["state"] == "ENQUEUED"


def restricted(own: PostgreSQL | MariaDB, most: int = 0) -> str:
    """The URL of a user who may not write to a server that is read-only, nor hold more connections than `most`."""
    if isinstance(own, PostgreSQL):
        own.execute(f"CREATE ROLE app LOGIN CONNECTION LIMIT {most or -1}")
        own.execute("CREATE DATABASE app OWNER app")
    else:
        own.execute("CREATE DATABASE app CHARACTER SET utf8mb4")
        own.execute(f"CREATE USER app@'%' IDENTIFIED BY 'app' WITH MAX_USER_CONNECTIONS {most}")
        own.execute("GRANT ALL ON app.* TO app@'%'")
    return make_url(own.url).set(username="app", password="app", database="app").render_as_string(hide_password=False)


@BOTH
def test_a_database_that_turned_read_only_is_unavailable(own: PostgreSQL | MariaDB) -> None:
    """As the old primary is after a fail-over: it answers, but is the wrong one. No pooled connection stays."""
    with opened(restricted(own)) as storage:
        storage.migrate()
        claimed(storage)
        if isinstance(own, PostgreSQL):
            own.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            own.execute("SELECT pg_reload_conf()")
            while not is_read_only(storage):
                pass
        else:
            own.execute("SET GLOBAL read_only = 1")
        writes = set(VERBS) - READS - {"receive", "requeue", "purge", "rescue", "remove", "acknowledge", "finish"}
        for name in sorted(writes - {"promote", "beat"}):
            with pytest.raises(StoreUnavailable):
                VERBS[name](storage)
            assert storage.engine.pool.checkedin() == 0, name  # type: ignore[attr-defined]
        assert not storage.answers()
        assert storage.count_by_state()[JobState.PROCESSING] == 1
        if isinstance(own, PostgreSQL):
            own.execute("ALTER SYSTEM RESET default_transaction_read_only")
            own.execute("SELECT pg_reload_conf()")
            while is_read_only(storage):
                storage.engine.dispose()
        else:
            own.execute("SET GLOBAL read_only = 0")
        assert_works(storage)


def is_read_only(storage: Storage) -> bool:
    """Whether this session has heard of the new setting."""
    with storage.engine.connect() as connection:
        return connection.scalar(text("SHOW transaction_read_only")) == "on"


@BOTH
def test_a_database_without_a_free_connection_is_unavailable(own: PostgreSQL | MariaDB) -> None:
    """Until another one leaves."""
    url = restricted(own, most=1)
    with opened(url) as first, opened(url) as second:
        first.migrate()
        with first.engine.connect():
            assert_unavailable(second, {"insert", "claim", "finish", "beat", "clock"})
        first.close()
        assert wait_until(second.answers, 20)  # a server may take a moment to let it go
        assert_works(second)


@BOTH
def test_a_database_that_is_not_there_yet_is_unavailable(request: pytest.FixtureRequest, kind: str) -> None:
    """It may still be created, or its user let in: that is waited for, as for a server that is down."""
    url = make_url(request.getfixturevalue(f"{kind}_url")).set(database="not_there")
    with opened(url.render_as_string(hide_password=False)) as storage:
        assert_unavailable(storage, {"insert", "clock"})
        with pytest.raises(StoreUnavailable):
            storage.migrate()


@pytest.fixture
def proxied(request: pytest.FixtureRequest, kind: str) -> Iterator[tuple[Proxy, Storage]]:
    """Give a storage that reaches its database over a proxy."""
    url = make_url(request.getfixturevalue(f"{kind}_url"))
    assert url.host is not None
    assert url.port is not None
    with opened(url.render_as_string(hide_password=False)) as direct:
        direct.migrate()
    with Proxy(url.host, url.port) as proxy:
        through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        with opened(through) as storage:
            yield proxy, storage


@BOTH
def test_a_cut_connection_is_unavailable_and_comes_back(proxied: tuple[Proxy, Storage]) -> None:
    """Reset under it, refused while it lasts, as before afterwards."""
    proxy, storage = proxied
    put(storage, [job("k")])
    proxy.cut()
    assert_unavailable(storage, {"insert", "claim", "finish", "promote", "purge", "beat", "peek", "publish", "rescue"})
    proxy.restore()
    assert_works(storage)


@BOTH
def test_a_commit_whose_reply_was_lost_is_found_by_its_token(proxied: tuple[Proxy, Storage]) -> None:
    """The batch is offered again: what the first try wrote is NEW under its token and a duplicate under another's."""
    proxy, storage = proxied
    offered = some_jobs(5)
    proxy.reset_on_reply_after(b"INSERT INTO jobbridge_jobs")
    with pytest.raises(StoreUnavailable):
        storage.insert_if_absent(offered, token=7, owner=A, claimed=5)
    assert proxy.resets == 1
    assert len(rows(storage)) == 5
    assert storage.insert_if_absent(offered, token=7, owner=A, claimed=5) == [NEW_CLAIMED] * 5
    assert storage.insert_if_absent(offered, token=7, owner=A, claimed=5, look_first=True) == [NEW_CLAIMED] * 5
    assert {one.outcome for one in storage.insert_if_absent(offered, token=8)} == {Outcome.DUPLICATE}
    assert len(rows(storage)) == 5


@BOTH
def test_a_commit_of_jobs_and_dead_letters_whose_reply_was_lost_is_found(proxied: tuple[Proxy, Storage]) -> None:
    """Both stand, once, after the second try."""
    proxy, storage = proxied
    proxy.reset_on_reply_after(b"COMMIT")
    with pytest.raises(StoreUnavailable):
        storage.insert_if_absent([job("k")], token=7, owner=A, claimed=1, rejected=[letter("l")])
    assert proxy.resets == 1
    again = storage.insert_if_absent([job("k")], token=7, owner=A, claimed=1, rejected=[letter("l")])
    assert again == [NEW_CLAIMED]
    assert (len(rows(storage)), len(letters(storage))) == (1, 1)


@BOTH
def test_claims_results_and_registrations_whose_reply_was_lost_are_found(proxied: tuple[Proxy, Storage]) -> None:
    """A claim by `standing`, a result by offering it again, a registration by its id."""
    proxy, storage = proxied
    put(storage, some_jobs(3))
    proxy.reset_on_reply_after(b"COMMIT" if storage.engine.dialect.name == "mysql" else b"UPDATE jobbridge_jobs")
    with pytest.raises(StoreUnavailable):
        storage.claim(A, ["h"], 3)
    held = storage.held(A, [key for key, _ in storage.standing(A)])
    assert len(held) == 3
    proxy.reset_on_reply_after(b"UPDATE jobbridge_jobs")
    with pytest.raises(StoreUnavailable):
        storage.finish([success(one) for one in held])
    assert storage.finish([success(one) for one in held]) == {one.key for one in held}
    assert {one["version"] for one in rows(storage)} == {2}
    proxy.reset_on_reply_after(b"INSERT INTO jobbridge_servers")
    with pytest.raises(StoreUnavailable):
        VERBS["register"](storage)
    number = VERBS["register"](storage)
    assert [(one.number, one.id) for one in storage.servers()] == [(number, A)]
    assert proxy.resets == 3


@BOTH
def test_a_verb_whose_connection_hangs_ends_when_it_flows_again(proxied: tuple[Proxy, Storage]) -> None:
    """Nothing is answered meanwhile, and nothing is done twice."""
    proxy, storage = proxied
    put(storage, [job("k")])
    with ThreadPoolExecutor(1) as pool:
        proxy.freeze()
        claim = pool.submit(storage.claim, A, ["h"], 5)
        try:
            assert not wait([claim], timeout=0.3).done
        finally:
            proxy.restore()
        assert [held.correlation_id for held in claim.result(30)] == ["k"]
    assert storage.standing(A) == [(job("k").id, 1)]


def test_a_transaction_whose_connection_is_lost_is_no_failure_of_its_handler(postgresql_url: str) -> None:
    """However the handler answers the error: it runs again, and what it wrote is there once."""
    runs: list[int] = []

    @handlers.job(name="book", transactional=True)
    def book(body: dict, context: JobContext) -> None:
        runs.append(body["n"])
        context.connection.execute(text("INSERT INTO ledger (n) VALUES (:n)"), body)
        if len(runs) == 1:
            context.connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        elif len(runs) == 2:
            with contextlib.suppress(DBAPIError):
                context.connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with Bench(book, url=postgresql_url) as bench:
        with bench.storage.engine.connect() as connection:
            connection.execute(text("CREATE TABLE ledger (n BIGINT NOT NULL)"))
        bench.enqueue(book, {"n": 7}, correlation_id="a")
        assert bench.run_until_idle(raises=False).succeeded == 1
        assert bench.assert_job(state="SUCCEEDED")["attempts"] == 0
        with bench.storage.engine.connect() as connection:
            assert connection.execute(text("SELECT n FROM ledger")).scalars().all() == [7]
    assert runs == [7, 7, 7]
