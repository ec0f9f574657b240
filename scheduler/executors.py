"""Who runs handlers: plain threads, and one event loop for `async def`.

Promises: a slot is always freed, whatever a handler raises (SystemExit, RecursionError and MemoryError included); a
run past its timeout is ended: a coroutine is cancelled, a thread is written off and replaced.
Does not promise to stop a thread: Python can't. When half of the workers are written off, `exhausted` is set.
"""

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from scheduler import tracing
from scheduler.context import JobContext
from scheduler.inflight import UNPARSED, InFlight, Run

LOOK_ON = 0.0002
"""Seconds for which a woken thread lets those that are awake take the next run; where they hold the GIL, until they
let go of it."""
RECENTLY = 0.002
"""Seconds since a run was taken, up to which some thread may be about to take the next."""


class WorkQueue:
    """Runs for worker threads, of which one more is woken only while those that are awake take none.

    A thread that takes a run wakes the next one if more wait, and that one looks on while others take them. So threads
    whose handlers wait for something start one another at once, while quick handlers stay on one thread: twenty of
    them for jobs of ten microseconds fight for the GIL, and with the threads that feed them, and that costs more than
    the jobs.
    """

    def __init__(self) -> None:
        self._runs: deque[Run | None] = deque()
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._waking = False
        """A token is on its way to a thread, or that thread looks on; set before one is put, cleared before the
        thread tries to take a run, so never for good."""
        self._taken_at = float("-inf")

    def put(self, run: Run | None) -> None:
        """Add a run; None ends the thread that takes it."""
        self._runs.append(run)
        if not self._waking:
            self._wake()

    def take(self) -> Run | None:
        """The oldest run; waits for one."""
        while True:
            try:
                run = self._runs.popleft()
            except IndexError:
                self._sleep()
                continue
            self._taken_at = time.monotonic()
            if not self._waking and self._runs:
                self._wake()
            return run

    def take_now(self) -> Run | None:
        """The oldest run, or None where none waits."""
        return self._runs.popleft() if self._runs else None

    def _wake(self) -> None:
        self._waking = True
        self._tokens.put(None)

    def _sleep(self) -> None:
        self._tokens.get()
        while len(self._runs) > 1 and time.monotonic() - self._taken_at < RECENTLY:
            before = self._taken_at
            time.sleep(LOOK_ON)
            if self._taken_at == before:
                break
        self._waking = False


Ended = Callable[[Run, BaseException | None], None]
"""Told of each run that ended while it was still ours to end."""


class HandlerTimeout(Exception):
    """A run took longer than its timeout."""


def _work(run: Run) -> object:
    body = run.body
    run.body = UNPARSED
    if body is UNPARSED:
        body = run.handler.load(run.job.body)
    return run.handler.call(body, run.context)


def call(run: Run) -> BaseException | None:
    """Call its handler; what it raised."""
    try:
        result = _work(run)
        if result is not None and inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"{run.handler.name} returned a coroutine: declare it with async def")
    except BaseException as raised:
        return raised
    return None


class Executors:
    """Threads and an event loop.

    :param may_start: asked last thing before a handler is called; False: the run is put aside by whoever answers.
    :param timed: called when a run with a timeout began: `expire` has to be asked by then.
    :param transact: calls a transactional handler.
    :param destinations: what `JobContext.publish` may name.
    """

    def __init__(
        self,
        inflight: InFlight,
        may_start: Callable[[Run], bool],
        ended: Ended,
        timed: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        transact: Callable[[Run], BaseException | None],
        destinations: Mapping[str, str],
    ) -> None:
        self.exhausted = threading.Event()
        self._inflight = inflight
        self._may_start = may_start
        self._ended = ended
        self._deadline_is_set = timed
        self._monotonic = monotonic
        self._transact = transact
        self._destinations = destinations
        self._queue = WorkQueue()
        self._written_off = 0
        self._timed: dict[bytes, Run] = {}
        self._timed_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_hand = False

    def start(self) -> None:
        """Start the worker threads. The event loop is started by the first coroutine."""
        for number in range(self._inflight.workers):
            self._start_thread(number)

    def _start_thread(self, number: int) -> None:
        threading.Thread(target=self._work_forever, name=f"worker-{number}", daemon=True).start()

    def stop(self) -> None:
        """Let the idle threads and the event loop end."""
        for _ in range(self._inflight.workers):
            self._queue.put(None)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def submit(self, run: Run) -> None:
        """Run it as soon as a worker is free."""
        if run.handler.is_async and not self._by_hand:
            loop = self._event_loop()
            loop.call_soon_threadsafe(self._spawn, run)
        else:
            self._queue.put(run)

    def take_now(self) -> Run | None:
        """The next waiting run, for who owns all threads and calls `begin` and `end` himself; None: there is none."""
        return self._queue.take_now()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on coroutines wait for `run_one` as well, which runs each to its end on this loop."""
        self._loop, self._slots = loop, asyncio.Semaphore(self._inflight.workers)
        self._by_hand = True

    def run_one(self) -> bool:
        """Run the next waiting job on the caller's thread; False: there is none. For a test that owns all threads."""
        run = self.take_now()
        if run is None:
            return False
        if run.handler.is_async and self._loop is not None:
            self._loop.run_until_complete(self._execute_async(run))
        else:
            self._execute(run)
        return True

    def expire(self) -> float | None:
        """End the threads' runs that are past their timeout; seconds until the next may be, None: none has one."""
        now = self._monotonic()
        with self._timed_lock:
            timed = list(self._timed.values())
        left: float | None = None
        for run in timed:
            deadline = run.deadline
            if deadline is None:
                continue
            if deadline > now:
                left = deadline - now if left is None else min(left, deadline - now)
            elif self._inflight.end(run):
                self._write_off(run)
        return left

    def _write_off(self, run: Run) -> None:
        run.cancel()
        with self._timed_lock:
            self._timed.pop(run.key, None)
            self._written_off += 1
            lost = self._written_off
        self._ended(run, HandlerTimeout(f"ran longer than its timeout of {run.policy.timeout:g} s"))
        if lost * 2 >= self._inflight.workers:
            self.exhausted.set()
        else:
            self._start_thread(lost)

    def _work_forever(self) -> None:
        while True:
            run = self._queue.take()
            if run is None or not self._execute(run):
                return

    def _execute(self, run: Run) -> bool:
        """Whether this thread goes on: not after its run was written off, since another has taken its place."""
        return not self.begin(run) or self.end(run, self.call(run))

    def call(self, run: Run) -> BaseException | None:
        """Call its handler; what it raised."""
        run.span = tracing.begin(run.job)
        error = self._transact(run) if run.handler.options.transactional else call(run)
        if run.span is not None:
            run.span.end(error)
        return error

    def begin(self, run: Run) -> bool:
        """Whether its handler is to be called now: not without trust, nor once it was handed back or found gone."""
        return self._may_start(run) and self._begin(run)

    def end(self, run: Run, error: BaseException | None) -> bool:
        """Its handler returned, or raised; False: it was written off meanwhile."""
        if run.deadline is not None:
            with self._timed_lock:
                self._timed.pop(run.key, None)
        if not self._inflight.end(run):
            with self._timed_lock:
                self._written_off -= 1
            return False
        self._ended(run, error)
        return True

    def _begin(self, run: Run) -> bool:
        if not self._inflight.begin(run):
            return False  # handed back, or found gone, while it waited
        if run.handler.takes_context:
            retries = run.policy.retries if run.job.retries is None else run.job.retries
            run.context = JobContext(run.job, retries, self._destinations)
            if run.cancelled:
                run.context.cancel()
        timeout = run.policy.timeout
        if timeout is not None and not run.handler.is_async:
            run.deadline = run.started + timeout
            with self._timed_lock:
                self._timed[run.key] = run
            self._deadline_is_set()
        return True

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            self._slots = asyncio.Semaphore(self._inflight.workers)
            threading.Thread(target=loop.run_forever, name="event-loop", daemon=True).start()
            self._loop = loop
        return self._loop

    def _spawn(self, run: Run) -> None:
        task = asyncio.ensure_future(self._execute_async(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute_async(self, run: Run) -> None:
        assert self._slots is not None
        async with self._slots:
            if not self.begin(run):
                return
            error: BaseException | None = None
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            run.cancel_hook = lambda: loop.call_soon_threadsafe(task.cancel)
            run.span = tracing.begin(run.job)
            try:
                async with asyncio.timeout(run.policy.timeout) as bound:
                    result = _work(run)
                    assert inspect.isawaitable(result)
                    await result
            except BaseException as raised:
                error = raised
                if bound.expired():
                    error = HandlerTimeout(f"ran longer than its timeout of {run.policy.timeout:g} s")
            run.cancel_hook = None
            if run.span is not None:
                run.span.end(error)
            if self._inflight.end(run):
                self._ended(run, error)
