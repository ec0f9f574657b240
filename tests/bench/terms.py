"""`python -m tests.bench.terms`: purge, locks, recurring jobs and due times on PostgreSQL, each beside its own floor.

- purge: rows a second of the verb alone; and what full ingest from the local queue's verbs loses beside it.
- hot lock: other keys' jobs a second with and without one key that has ten thousand jobs in front.
- recurring: what 10,000 rows cost to fire, and a look at nothing to fire.
- limited: jobs a second of one route, all there from the start, on three pods with `concurrency: 4`, or a lock of four
  keys, beside what four at a time could do.
- due times: how late jobs start that were scheduled for a time, with a pod as a process.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text, update

from scheduler import Scheduler
from scheduler.job import JobState, NewJob, new_job
from scheduler.limits import lock_key
from scheduler.maintenance.purge import Purge
from scheduler.maintenance.recurring import Declared, Fire
from scheduler.recurring import Recurring
from scheduler.storage import Storage, open_storage
from scheduler.storage.records import Finish
from scheduler.storage.tables import recurring
from tests.acceptance.cluster import Cluster
from tests.acceptance.handlers import work
from tests.servers.databases import fresh_database
from tests.servers.postgresql import PostgreSQL

SERVER = b"s" * 16
KEPT = 10**12
BODY = b'{"filling": "' + b"x" * 250 + b'"}'
FINISHED = """
    INSERT INTO jobbridge_jobs (id, version, state, lane, due_at, attempts, rescues, created_at, finished_at, digest,
        namespace, correlation_bytes, correlation_length, correlation_id, route, handler, source, headers, body)
    SELECT decode(md5('old' || k), 'hex'), 2, 'SUCCEEDED', 0, k, 0, 0, 1, 1, decode(md5('d'), 'hex'), 'n', 'c', 1, 'c',
        'r', 'h', 's', '{}', convert_to(repeat('x', 270), 'UTF8') FROM generate_series(1, :number) AS k
"""


def opened(url: str) -> Storage:
    storage = open_storage(url)
    storage.migrate()
    return storage


def fill(storage: Storage, number: int) -> None:
    """Finished rows whose time is over."""
    with storage.engine.connect() as connection:
        connection.execute(text(FINISHED), {"number": number})
        connection.exec_driver_sql("VACUUM ANALYZE jobbridge_jobs")


def made(names: Iterator[str], **more: bytes) -> list[NewJob]:
    return [new_job(namespace="n", correlation=name.encode(), handler="h", body=BODY, **more) for name in names]  # type: ignore[arg-type]


def ingest(storage: Storage, number: int, prefix: str) -> float:
    """Jobs a second that are inserted as claimed and finished, in batches of 500 on one thread."""
    began = time.perf_counter()
    for start in range(0, number, 500):
        batch = made(f"{prefix}-{k}" for k in range(start, start + 500))
        storage.insert_if_absent(batch, token=start, owner=SERVER, claimed=500)
        storage.finish([Finish(one.id, 1, SERVER, JobState.SUCCEEDED, KEPT) for one in batch])
    return number / (time.perf_counter() - began)


def purge(url: str) -> Iterator[str]:
    storage = opened(url)
    number = 400_000
    fill(storage, number)
    began = time.perf_counter()
    while storage.purge():
        pass
    yield f"purge alone: {number / (time.perf_counter() - began):,.0f} rows/s"
    rates: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(6):
        fill(storage, 400_000 if turn % 2 else 0)
        with purging(url, turn % 2):
            rates[bool(turn % 2)].append(ingest(storage, 40_000, f"turn-{turn}"))
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("TRUNCATE jobbridge_jobs")
    alone, beside = (statistics.median(rates[it]) for it in (False, True))
    yield f"ingest and run alone {alone:,.0f} jobs/s, beside a purge {beside:,.0f}: {beside / alone:.2f}"
    storage.close()


@contextmanager
def purging(url: str, beside: int) -> Iterator[None]:
    """The duty on a thread of its own, as a master has it that is busy."""
    storage, stop = opened(url), threading.Event()
    duty = Purge(storage, lambda: True)

    def run() -> None:
        while not stop.is_set():
            stop.wait(duty.step())

    thread = threading.Thread(target=run)
    if beside:
        thread.start()
    yield
    stop.set()
    if beside:
        thread.join()
    storage.close()


def drain(storage: Storage, wanted: Callable[[str], bool], number: int) -> float:
    """Claim and finish until so many jobs of interest are done; how many of them a second."""
    began, done = time.perf_counter(), 0
    while done < number:
        held = storage.claim(SERVER, ["h"], 100)
        storage.finish(
            [Finish(one.key, one.version, SERVER, JobState.SUCCEEDED, KEPT, lock_key=one.lock_key) for one in held]
        )
        done += sum(wanted(one.correlation_id) for one in held)
    return number / (time.perf_counter() - began)


def hot_lock(postgresql: PostgreSQL) -> Iterator[str]:
    rates: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(6):
        hot = bool(turn % 2)
        with fresh_database(postgresql.url) as url:
            storage = opened(url)
            for start in range(0, 10_000 if hot else 0, 500):
                storage.insert_if_absent(
                    made((f"hot-{k}" for k in range(start, start + 500)), lock_key=lock_key("n", b"hot")), token=1
                )
            others = [
                new_job(
                    namespace="n",
                    correlation=b"other-%d" % k,
                    handler="h",
                    body=BODY,
                    lock_key=lock_key("n", b"%d" % (k % 1000)),
                )
                for k in range(10_000)
            ]
            for start in range(0, 10_000, 500):
                storage.insert_if_absent(others[start : start + 500], token=1)
            with storage.engine.connect() as connection:
                connection.exec_driver_sql("VACUUM ANALYZE jobbridge_jobs")
            rates[hot].append(drain(storage, lambda name: name.startswith("other"), 10_000))
            storage.close()
    cold, with_hot = (statistics.median(rates[hot]) for hot in (False, True))
    yield f"jobs of 1,000 keys {cold:,.0f}/s, behind 10,000 jobs of one more {with_hot:,.0f}: {with_hot / cold:.2f}"


def ticks(url: str) -> Iterator[str]:
    storage = opened(url)
    declared = Declared([Recurring(name=f"job-{k}", handler="h", cron=f"{k % 60} * * * *") for k in range(10_000)])
    began = time.perf_counter()
    declared.declare(storage)
    yield f"10,000 recurring jobs: declared in {time.perf_counter() - began:.1f} s"
    duty = Fire(storage)
    began = time.perf_counter()
    for _ in range(50):
        duty.step()
    yield f"a look when nothing is due: {(time.perf_counter() - began) / 50 * 1000:.1f} ms"
    with storage.engine.connect() as connection:
        connection.execute(update(recurring).values(next_at=storage.clock() - 1_000_000))
    began = time.perf_counter()
    while duty.step() == 0:
        pass
    with storage.engine.connect() as connection:
        fired = connection.execute(text("SELECT count(*) FROM jobbridge_jobs")).scalar_one()
    yield f"{fired:,} ticks due at once: {fired / (time.perf_counter() - began):,.0f} jobs/s"
    storage.close()


def due_times(url: str) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(Path(folder), store=url, workers=20, heartbeat="1s") as cluster,
    ):
        configuration = Path(folder) / "bridge.yaml"
        configuration.write_text(configuration.read_text() + 'handlers: ["tests.acceptance.handlers:work"]\n')
        cluster.start(3)
        for kills in (False, True):
            scheduler = Scheduler(url)
            kind = "killed" if kills else "calm"
            for k in range(1000):
                scheduler.schedule(work, {"id": k}, correlation_id=f"{kind}-{k}", delay=5 + k * 0.01)
            scheduler.close()
            due = {
                str(row["correlation_id"]): int(str(row["due_at"])) / 1e6
                for row in cluster.storage.list_jobs(limit=1000)
            }
            if kills:
                time.sleep(6)
                (master,) = (row.pid for row, leads in cluster.storage.live_servers() if leads)
                cluster.kill(next(pod for pod in cluster.pods if pod.pid == master))
            cluster.wait_done(2000 if kills else 1000, 60)
            late = sorted(
                effect.at - due[effect.correlation_id]
                for effect in cluster.effects()
                if effect.what == "start" and effect.correlation_id.startswith(kind)
            )
            first, median, most, last = (round(late[k] * 1000, 1) for k in (0, 500, 989, 999))
            who = "the master killed" if kills else "three pods"
            yield f"1,000 scheduled jobs, {who}: late by {first} ms at least, median {median}, p99 {most}, most {last}"


def limited(url: str, term: str, number: int = 600, seconds: float = 0.02) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(Path(folder), store=url, workers=20, heartbeat="1s", route=f", {term}") as cluster,
    ):
        bodies = [{"id": k, "customer": k % 4, "sleep": seconds} for k in range(number)]
        cluster.publish([(f"limited-{k}", body) for k, body in enumerate(bodies)])
        cluster.start(3)
        cluster.wait_done(number, 300)
        noted = [effect.at for effect in cluster.effects() if effect.what in ("start", "end")]
        rate = number / (max(noted) - min(noted))
        yield f"{term}: {rate:,.0f} jobs/s of {4 / seconds:,.0f}: {rate * seconds / 4:.2f}"


def main() -> None:
    """Measure all, or what is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.terms", description=__doc__)
    parser.add_argument("only", nargs="*", choices=("purge", "lock", "recurring", "due", "limited"))
    only = parser.parse_args().only or ["purge", "lock", "recurring", "due", "limited"]
    with PostgreSQL() as postgresql:
        for name, measure in (("purge", purge), ("recurring", ticks), ("due", due_times)):
            if name in only:
                with fresh_database(postgresql.url) as url:
                    for line in measure(url):
                        print(line, flush=True)
        if "limited" in only:
            for term in ("concurrency: 4", 'lock: "body:/customer"'):
                with fresh_database(postgresql.url) as url:
                    for line in limited(url, term):
                        print(line, flush=True)
        if "lock" in only:
            for line in hot_lock(postgresql):
                print(line, flush=True)


if __name__ == "__main__":
    main()
