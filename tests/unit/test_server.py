"""The order in which a server stops, on one thread."""

import threading
from collections.abc import Iterator

import pytest

from scheduler.handlers import HandlerRegistry, JobContext, describe
from scheduler.retry import Policies, PolicyOverride
from scheduler.server import Server
from scheduler.storage import Storage, open_storage
from tests.unit.test_worker import INTERVAL, Clock, job


@pytest.fixture
def storage(sqlite_url: str) -> Iterator[Storage]:
    opened = open_storage(sqlite_url)
    opened.migrate()
    yield opened
    opened.close()


def test_a_drain_cancels_what_runs_without_trust(storage: Storage) -> None:
    """A stop may take longer than this server is trusted while the store is away (I10)."""
    clock, told = Clock(), []

    def handle(context: JobContext) -> None:
        draining = server.draining(600.0, threading.Event())
        next(draining)
        told.append(context.cancelled)
        clock.time += 3.5 * INTERVAL
        next(draining)
        told.append(context.cancelled)

    registry = HandlerRegistry([describe(handle, "h")])
    server = Server(storage, storage, registry, Policies(PolicyOverride(), {}), heartbeat=INTERVAL, monotonic=clock)
    storage.insert_if_absent([job("a")], token=1)
    server.membership.step()
    server.claimer.step()
    assert server.worker.executors.run_one()
    assert told == [False, True]
