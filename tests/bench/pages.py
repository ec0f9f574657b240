"""`python -m tests.bench.pages`: how long each page of the dashboard takes beside a million finished jobs.

PostgreSQL, in this process, without a network between browser and pod: the page is asked for, its queries run, and its
HTML is there. The median of 20, and the slowest.
"""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from bridge.assembly import assemble, decoders
from bridge.config.load import load
from bridge.dashboard import THREADS, Dashboard
from scheduler.storage import Storage, open_storage
from tests.dashboard.client import Client
from tests.servers.databases import fresh_database
from tests.servers.postgresql import PostgreSQL

FINISHED = 1_000_000
WAITING = 2_000
CONFIGURATION = """\
store: "{url}"
sources: {{s: {{queue: s}}}}
routes: [{{name: r, from: s, handler: "bridge.demo:place_order"}}]
http: {{port: 8080, dashboard: true}}
"""

# One in four failed, and is kept for longer, as by default.
_STATE = """
    CASE WHEN n > %(finished)s THEN CASE mod(n, 2) WHEN 0 THEN 'ENQUEUED' ELSE 'SCHEDULED' END
         WHEN mod(n, 4) = 3 THEN 'FAILED' WHEN mod(n, 40) = 4 THEN 'DELETED' ELSE 'SUCCEEDED' END
"""
_JOBS = f"""
    INSERT INTO jobbridge_jobs (id, version, state, lane, due_at, attempts, rescues, created_at, started_at,
        finished_at, digest, namespace, correlation_bytes, correlation_length, correlation_id, route, handler, source,
        headers, body)
    SELECT decode(md5(n::text), 'hex'), 2, {_STATE}, 0,
        1900000000000000 + n + CASE WHEN mod(n, 4) = 3 THEN 10000000000000 ELSE 0 END, 0, 0, n, n,
        CASE WHEN n > %(finished)s THEN NULL ELSE n END, decode(md5('b'), 'hex'), 'r', n::text::bytea, 7,
        n::text, 'r', 'h', 's', '{{}}', '{{"id": 7, "amount": 12.5}}'
    FROM generate_series(1, %(finished)s + {WAITING}) AS n
"""
_EVENTS = """
    INSERT INTO jobbridge_job_events (job_id, at, kind, version, detail, times)
    SELECT decode(md5(n::text), 'hex'), n, 'FAILED', 1, 'Traceback' || chr(10) || 'ValueError: no', 1
    FROM generate_series(3, %(finished)s, 4) AS n
"""
_INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'jobbridge_jobs' AND indexdef LIKE 'CREATE INDEX%%'
"""

FAILED = UUID(bytes=bytes.fromhex("eccbc87e4b5ce2fe28308fd9f2a7baf3"))
"""The id of the third job, which failed."""
PAGES = {
    "overview": "/",
    "overview of 7 days": "/?window=7d",
    **{f"jobs, {state.lower()}": f"/jobs?state={state}" for state in ("SCHEDULED", "ENQUEUED", "PROCESSING")},
    **{f"jobs, {state.lower()}": f"/jobs?state={state}" for state in ("SUCCEEDED", "FAILED", "DELETED")},
    "jobs, thousands of pages on": f"/jobs?state=SUCCEEDED&after=1900000000100000-{'0' * 32}",
    "jobs of a route that has none": "/jobs?state=SUCCEEDED&route=nowhere",
    "jobs with an error that none has": "/jobs?state=FAILED&error=nothing",
    "a job by its correlation ID": "/jobs?id=3",
    "a job that is not there": "/jobs?id=nobody",
    "a job": f"/jobs/{FAILED}",
    "all that match, counted": "/jobs/matching?verb=requeue&state=FAILED",
    "recurring": "/recurring",
    "sources": "/sources",
    "servers": "/servers",
    "dead letters": "/dead-letters",
}


def fill(storage: Storage, finished: int = FINISHED) -> None:
    """So many finished jobs; the indexes are made after them, which is a third of the work."""
    storage.migrate()
    with storage.engine.connect() as connection:
        indexes = connection.exec_driver_sql(_INDEXES).all()
        for name, _ in indexes:
            connection.exec_driver_sql(f"DROP INDEX {name}")
        connection.exec_driver_sql(_JOBS, {"finished": finished})
        for _, definition in indexes:
            connection.exec_driver_sql(definition)
        connection.exec_driver_sql(_EVENTS, {"finished": finished})
        connection.exec_driver_sql("VACUUM ANALYZE jobbridge_jobs")
        connection.exec_driver_sql("ANALYZE jobbridge_job_events")


def dashboard(folder: Path, url: str) -> tuple[Dashboard, Storage]:
    """A dashboard on the store, and the store that it looks at."""
    (folder / "bridge.yaml").write_text(CONFIGURATION.format(url=url))
    configuration = load(folder / "bridge.yaml", environ={})
    storage = open_storage(url, pool_size=THREADS)
    return Dashboard(configuration, storage, decoders(configuration, assemble(configuration).rules)), storage


def main() -> None:
    with PostgreSQL() as server, fresh_database(server.url) as url, TemporaryDirectory() as folder:
        app, storage = dashboard(Path(folder), url)
        fill(storage)
        client = Client(app)
        for name, path in PAGES.items():
            taken: list[float] = []
            for _ in range(20):
                began = time.perf_counter()
                assert client.get(path).status == 200
                taken.append((time.perf_counter() - began) * 1000)
            print(f"{name:35} {statistics.median(taken):7.1f} ms   slowest {max(taken):7.1f} ms", flush=True)
        app.stop()


if __name__ == "__main__":
    main()
