"""The queue between those who submit runs and the worker threads."""

import threading

import pytest

from scheduler.executors import WorkQueue
from scheduler.inflight import Registration, Run

WORKERS = 20
SECONDS = 20.0


def some_run(number: int) -> Run:
    return Run(number.to_bytes(16, "big"), Registration(b"s" * 16, 1))


@pytest.mark.parametrize("together", [True, False])
def test_handlers_that_wait_for_one_another_all_start(together: bool) -> None:
    """Each thread holds the run that it took until all have one, as handlers do that wait for something."""
    queue = WorkQueue()
    everyone = threading.Barrier(WORKERS + 1)

    def serve() -> None:
        assert queue.take() is not None
        everyone.wait(SECONDS)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(WORKERS)]
    if together:
        for number in range(WORKERS):
            queue.put(some_run(number))
    for thread in threads:
        thread.start()
    if not together:
        for number in range(WORKERS):
            queue.put(some_run(number))
    everyone.wait(SECONDS)
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_each_run_is_taken_once_and_every_thread_ends() -> None:
    queue = WorkQueue()
    taken: list[bytes] = []

    def serve() -> None:
        while (run := queue.take()) is not None:
            taken.append(run.key)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for number in range(5_000):
        queue.put(some_run(number))
    for _ in threads:
        queue.put(None)
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert sorted(taken) == [some_run(number).key for number in range(5_000)]
