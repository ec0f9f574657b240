"""The simulation finds what is broken: with a guard of the product taken out, seeds fail, and by the right promise."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import bindparam

from bridge.ingest import Ingest
from bridge.sources.kafka_progress import Progress
from bridge.sources.source import Batch
from scheduler.finisher import Finisher
from scheduler.membership import Membership, Watch
from scheduler.storage import StoreUnavailable
from scheduler.storage.execution import Execution
from scheduler.storage.tables import jobs
from scheduler.storage.upkeep import Upkeep
from tests.simulation.profile import Profile
from tests.simulation.results import run_seeds

MOST_SEEDS = 40


def ack_before_commit(patch: pytest.MonkeyPatch) -> None:
    decode = Ingest._decode

    def acked_first(self: Ingest, batch: Batch) -> Any:
        self._source.ack(batch)
        return decode(self, batch)

    patch.setattr(Ingest, "_decode", acked_first)


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


def usual(profile: Profile) -> None:
    """As it is."""


def held_up(profile: Profile) -> None:
    profile.kinds, profile.pause = ["freeze", "cut"], 3.0
    profile.rates["freeze in a call"] = 0.02
    profile.interleaving = 0.3


def outages(profile: Profile) -> None:
    profile.kinds, profile.pause, profile.pods = ["outage"], 6.0, 3


def rebalances(profile: Profile) -> None:
    profile.sources, profile.kinds, profile.pause, profile.pods = ["events"], ["rebalance"], 1.0, 3
    profile.interleaving = 0.3


@pytest.mark.parametrize(
    ("taken_out", "shape", "promises"),
    [
        (ack_before_commit, usual, {"I1"}),
        (finish_without_the_version, usual, {"I7", "I8", "I9"}),
        (start_without_trust, held_up, {"I10"}),
        (late_rounds_do_not_clear, outages, {"I14"}),
        (results_dropped_in_an_outage, usual, {"I7", "I17"}),
        (no_orphan_is_looked_for, usual, {"I17"}),
        (offsets_of_moved_partitions, rebalances, {"I1"}),
    ],
)
def test_a_guard_that_is_taken_out_is_missed(
    taken_out: Callable[[pytest.MonkeyPatch], None],
    shape: Callable[[Profile], None],
    promises: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In runs of a shape in which it matters; each shape alone breaks nothing."""
    seeds = range(1, MOST_SEEDS + 1)
    assert run_seeds(seeds[:3], shape=shape).passed
    taken_out(monkeypatch)
    broken: set[str] = set()
    for seed in seeds:
        failed = run_seeds([seed], shape=shape).failed
        broken = {promise for found in failed.values() for promise, _ in found}
        if broken:
            break
    assert promises & broken
