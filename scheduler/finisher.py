"""The finish thread: it writes the results of all runs that ended meanwhile, in one statement.

Promises: results that can't be written are held and offered again, before anything is claimed (I14); one that was
fenced is dropped and logged.
"""

from collections.abc import Sequence, Set
from logging import getLogger
from queue import Empty

from scheduler.context import log_fields
from scheduler.inflight import Run
from scheduler.storage.errors import StoreUnavailable
from scheduler.storage.gates import LIMITED
from scheduler.storage.records import Finish
from scheduler.worker import Worker

log = getLogger("jobbridge.worker")

IDLE_FINISH = 60.0
MAX_HELD = 500


class Finisher:
    """The finish thread's loop: writes all results that came meanwhile, and ends runs past their timeout."""

    name = "finish"

    def __init__(self, worker: Worker) -> None:
        self.wake = worker.finishing
        self._worker = worker
        self._held: list[tuple[Run, Finish]] = []

    def step(self) -> float:
        """One round; seconds to wait unless woken."""
        worker = self._worker
        left = worker.executors.expire()
        while len(self._held) < MAX_HELD:
            try:
                self._held.append(worker.results.get_nowait())
            except Empty:
                break
        if not self._held:
            return IDLE_FINISH if left is None else left
        if worker.filters.wants("changing"):
            for run, result in self._held:
                worker.filters.tell("changing", run.job, result.state)
        try:
            written = worker.storage.finish([result for _, result in self._held])
        except StoreUnavailable:
            worker.holding = True
            raise
        ended, self._held = self._held, []
        worker.holding = False
        worker.count([run for run, _ in ended], written)
        worker.inflight.leave([run for run, _ in ended])
        if len(written) < len(ended) or worker.filters.wants("changed"):
            self._tell(ended, written)
        if any(result.messages for _, result in ended):
            worker.leave()
        # Another may wait for just this lock or this place, though the last claim found none.
        lets_go = any(run.job.lock_key is not None or run.lane >= LIMITED for run, _ in ended)
        if (lets_go or not worker.hungry) and worker.inflight.worth_claiming():
            worker.claiming.set()
        return 0.0

    def _tell(self, ended: Sequence[tuple[Run, Finish]], written: Set[bytes]) -> None:
        for run, result in ended:
            if result.id in written:
                self._worker.filters.tell("changed", run.job, result.state)
            else:
                log.warning("result refused: fenced, the job is another's now", extra=log_fields(run.job))
