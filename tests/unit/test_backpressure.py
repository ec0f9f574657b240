"""A source stands still while there is any reason, and goes on when the last one has gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.backpressure import Backpressure
from bridge.config.load import load
from bridge.pod import Pod
from bridge.sources.source import Batch, Source, SourceStatus
from scheduler.storage import Storage, open_storage
from tests.conformance.stores import put, some_jobs


class Given(Source):
    """Notes what it is told; never attached."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused: str | None = None

    def run(self) -> None: ...

    def receive(self, timeout: float) -> Batch | None:
        return None

    def ack(self, batch: Batch) -> None: ...

    def pause(self, reason: str) -> None:
        self.paused = reason

    def resume(self) -> None:
        self.paused = None

    def drained(self) -> bool:
        return True

    def close(self) -> None: ...

    def status(self) -> SourceStatus:
        return SourceStatus(False, "the broker is down", self.paused)


@pytest.fixture
def storage(sqlite_url: str) -> Iterator[Storage]:
    with contextlib.closing(open_storage(sqlite_url)) as opened:
        opened.migrate()
        yield opened


FULL = "more than 2 jobs wait"


def test_an_operators_pause_outlasts_a_full_store(storage: Storage) -> None:
    one, other = Given("one"), Given("other")
    gate = Backpressure([one, other], storage, 2, 15.0)
    storage.pause("source", "one", "ann")
    gate.step()
    assert (one.paused, other.paused) == ("paused by ann", None)
    put(storage, some_jobs(3))
    gate.step()
    assert (one.paused, other.paused) == ("paused by ann", FULL)
    storage.claim(b"o" * 16, ["h"], 3)
    gate.step()
    assert (one.paused, other.paused) == ("paused by ann", None)
    storage.resume("source", "one")
    gate.step()
    assert (one.paused, other.paused) == (None, None)


def test_a_full_store_outlasts_an_operators_pause(storage: Storage) -> None:
    source = Given("one")
    gate = Backpressure([source], storage, 2, 15.0)
    put(storage, some_jobs(3))
    gate.step()
    assert source.paused == FULL
    storage.pause("source", "one", "ann")
    gate.step()
    assert source.paused == "paused by ann"
    storage.resume("source", "one")
    gate.step()
    assert source.paused == FULL


def test_the_workers_are_told_of_paused_routes_alone(storage: Storage) -> None:
    told: list[frozenset[str]] = []
    gate = Backpressure([Given("one")], storage, 2, 15.0, told.append)
    storage.pause("route", "one", "ann")
    gate.step()
    storage.resume("route", "one")
    gate.step()
    assert told == [{"one"}, frozenset()]


def test_a_pod_is_ready_though_a_source_is_paused(storage: Storage, sqlite_url: str, tmp_path: Path) -> None:
    """And knows of it before its first message."""
    file = tmp_path / "bridge.yaml"
    file.write_text(f"store: {sqlite_url}\nsources: {{one: {{queue: q}}, other: {{queue: r}}}}\n")
    source, other = Given("one"), Given("other")
    storage.pause("source", "one", "ann")
    pod = Pod(load(file), open_sources=lambda _, __: [source, other])
    assert pod._await_store()
    assert source.paused == "paused by ann"
    assert pod.unready()["source other"]
    assert not pod.unready()["source one"]
