"""The simulation finds what is broken: with a guard of the product taken out, seeds fail, and by the right promise."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import bindparam

from bridge.ingest import Ingest
from bridge.sources.amqp_session import Acked
from bridge.sources.kafka_progress import Progress
from bridge.sources.source import Batch
from scheduler.membership import Membership, Watch
from scheduler.storage import StoreUnavailable
from scheduler.storage.execution import Execution
from scheduler.storage.tables import jobs
from scheduler.storage.upkeep import Upkeep
from scheduler.worker import Finisher
from tests.simulation.results import run_seeds

CHUNK = 5
MOST_SEEDS = 100


def ack_before_commit(patch: pytest.MonkeyPatch) -> None:
    decode = Ingest._decode

    def acked_first(self: Ingest, batch: Batch) -> Any:
        self._source.ack(batch)
        return decode(self, batch)

    patch.setattr(Ingest, "_decode", acked_first)


def ack_past_an_earlier_batch(patch: pytest.MonkeyPatch) -> None:
    add = Acked.add

    def forgetful(self: Acked, first: int, last: int) -> tuple[range, bool]:
        self.prefix = max(self.prefix, first - 1)
        return add(self, first, last)

    patch.setattr(Acked, "add", forgetful)


def finish_without_the_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Execution, "guarded", lambda self: self.ending(jobs.c.id == bindparam("of_id")))


def start_without_trust(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Membership, "trusts", lambda self, registration: True)


def late_rounds_do_not_clear(patch: pytest.MonkeyPatch) -> None:
    judge = Watch.round

    def round(self: Watch, rows: Sequence[Any], now: float) -> set[bytes]:
        self._last_round = None
        return judge(self, rows, now)

    patch.setattr(Watch, "round", round)


def results_dropped_in_an_outage(patch: pytest.MonkeyPatch) -> None:
    finish = Finisher.step

    def step(self: Finisher) -> float:
        try:
            return finish(self)
        except StoreUnavailable:
            self._worker.inflight.leave([run for run, _ in self._held])
            self._held = []
            raise

    patch.setattr(Finisher, "step", step)


def no_orphan_is_looked_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upkeep, "owners", lambda self: set())


def offsets_of_moved_partitions(patch: pytest.MonkeyPatch) -> None:
    ack = Progress.ack

    def careless(self: Progress, handed: Any) -> None:
        parts = list(handed)
        ack(self, parts)
        for part in parts:
            if part.assignment.stored is not None:
                self._unsent[part.assignment.partition] = part.assignment.stored

    patch.setattr(Progress, "ack", careless)


@pytest.mark.parametrize(
    ("taken_out", "promises"),
    [
        (ack_before_commit, {"I1"}),
        (ack_past_an_earlier_batch, {"I1"}),
        (finish_without_the_version, {"I7", "I8", "I9"}),
        (start_without_trust, {"I10"}),
        (late_rounds_do_not_clear, {"I14"}),
        (results_dropped_in_an_outage, {"I7"}),
        (no_orphan_is_looked_for, {"I17"}),
        (offsets_of_moved_partitions, {"I1"}),
    ],
)
def test_a_guard_that_is_taken_out_is_missed(
    taken_out: Callable[[pytest.MonkeyPatch], None], promises: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_out(monkeypatch)
    for first in range(1, MOST_SEEDS, CHUNK):
        results = run_seeds(range(first, first + CHUNK))
        if results.failed:
            break
    assert promises & {promise for broken in results.failed.values() for promise, _ in broken}
