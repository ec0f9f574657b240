"""A dashboard over a store with some of everything, in this process."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from bridge.assembly import assemble, decoders
from bridge.config.load import load
from bridge.dashboard import Dashboard
from scheduler.maintenance.recurring import Declared
from scheduler.recurring import Recurring
from scheduler.storage import Storage, open_storage
from scheduler.storage.tables import dead_letters
from tests.conformance.stores import claimed, failure, job, letter, put
from tests.dashboard.client import Client

CONFIGURATION = """\
store: "{url}"
sources: {{s: {{queue: s}}}}
routes:
  - {{name: r, from: s, handler: "bridge.demo:place_order", dedupe: {{namespace: n}}, title: "{{correlation_id}}"}}
recurring: {{beat: {{every: 10m, handler: "bridge.demo:place_order", body: {{id: 8, amount: 1}}}}}}
http: {{port: 8080, dashboard: true{more}}}
"""
PEOPLE = ", auth: {olga: {password: o-secret, role: operator}, vic: {password: v-secret}}"
OLGA, VIC = "olga:o-secret", "vic:v-secret"


class Seen:
    """A dashboard and the store below it."""

    def __init__(self, folder: Path, url: str, more: str) -> None:
        (folder / "bridge.yaml").write_text(CONFIGURATION.format(url=url, more=more))
        self.configuration = load(folder / "bridge.yaml", environ={})
        self.storage: Storage = open_storage(url)
        rules = assemble(self.configuration).rules
        self.app = Dashboard(self.configuration, open_storage(url, pool_size=4), decoders(self.configuration, rules))

    def client(self, user: str = OLGA, **more: Any) -> Client:
        return Client(self.app, user, **more)

    def close(self) -> None:
        self.app.stop()
        self.storage.close()


def fill(storage: Storage) -> None:
    """Three jobs that failed, one that waits, a dead letter, a recurring job."""
    storage.migrate()
    beat = Recurring(name="beat", every="10m", handler="bridge.demo:place_order", body='{"id": 8, "amount": 1}')  # type: ignore[arg-type]
    Declared([beat]).declare(storage)
    storage.finish([failure(held) for held in claimed(storage, 3)])
    put(storage, [job("waits", body=b'{"id": 7, "amount": 1, "card": "4111-secret"}', headers='{"token": "h-secret"}')])
    add_letter(storage, "lost", body=b'{"id": 7, "amount": 12.5}')


def add_letter(storage: Storage, name: str, **more: Any) -> None:
    given = {"envelope": json.dumps({"correlation": name}), "size": len(more["body"])}
    made = letter(name, **given | more)
    with storage.engine.connect() as connection:
        connection.execute(insert(dead_letters).values(**made._asdict(), received_at=storage.clock()))


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a filled store, for copies: making one costs more than most tests."""
    file = tmp_path_factory.mktemp("dashboard") / "jobs.db"
    with contextlib.closing(open_storage(f"sqlite:///{file}")) as storage:
        fill(storage)
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


@pytest.fixture
def seen(request: pytest.FixtureRequest, tmp_path: Path, filled: Path) -> Iterator[Seen]:
    """Give a dashboard; a test's parameter is more of `http`."""
    file = shutil.copy(filled, tmp_path / "jobs.db")
    with contextlib.closing(Seen(tmp_path, f"sqlite:///{file}", getattr(request, "param", PEOPLE))) as opened:
        yield opened
