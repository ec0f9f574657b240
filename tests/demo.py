"""`make run`: the main job, seen at work.

Three pods on one SQLite file and the local queue; orders are published, a third of them twice; each is executed
once. So are an order for later, when its time has come, and a recurring job, at each of its times. On a terminal the
pods go on until Ctrl-C. Without one the program ends, with 0 only if the counts are right.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bridge.config.model import LocalSourceSection
from bridge.demo import place_order
from bridge.message import Message
from bridge.sources.local import publish_local
from scheduler import Scheduler
from scheduler.job import JobState
from scheduler.storage import Storage, open_storage

PODS = 3
ORDERS = 200
DUPLICATES = 100
DELAY = 1.0
"""Seconds until the order for later."""
TICKS = 2
DEADLINE = 60.0

CONFIGURATION = """\
store: sqlite:///jobbridge.db
sources:
  orders: {queue: orders, batch: {max: 10}}
routes:
  - {name: order-placed, from: orders, handler: "bridge.demo:place_order"}
recurring:
  tick: {every: 1s, handler: "bridge.demo:tick"}
pod: {heartbeat: 2s, workers: 4}
"""


def main() -> int:
    """Run the demonstration; the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="jobbridge-demo-"))
    (folder / "bridge.yaml").write_text(CONFIGURATION)
    storage = open_storage(f"sqlite:///{folder / 'jobbridge.db'}")
    storage.migrate()
    pods = [_start_pod(folder) for _ in range(PODS)]
    keep = True
    try:
        print(f"{PODS} pods share {folder / 'jobbridge.db'}", flush=True)
        _publish(folder)
        right = _orders(storage, folder) and _later(storage, folder) and _ticks(folder)
        keep = not right
        if not right:
            print(f"THIS IS NOT AS PROMISED: see {folder}", file=sys.stderr)
        if right and sys.stdout.isatty():
            _stay(folder)
        return 0 if right else 1
    finally:
        storage.close()
        for pod in pods:
            pod.send_signal(signal.SIGTERM)
        for pod in pods:
            pod.wait(timeout=30)
        if not keep:
            shutil.rmtree(folder)


def _jobbridge(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bridge.cli.main", *arguments]


def _start_pod(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "pods.log").open("ab") as log:
        return subprocess.Popen(
            _jobbridge("run"), cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _publish(folder: Path) -> None:
    """Orders and duplicates, mixed."""
    numbers = [*range(ORDERS), *range(DUPLICATES)]
    numbers = [numbers[k * 7 % len(numbers)] for k in range(len(numbers))]
    storage = open_storage(f"sqlite:///{folder / 'jobbridge.db'}")
    orders = (Message(f'{{"id": {k}, "amount": {k / 4}}}'.encode(), correlation=f"order-{k}".encode()) for k in numbers)
    count = publish_local(storage, LocalSourceSection(queue="orders"), orders)
    storage.close()
    print(f"published {count} messages: {ORDERS} orders, {DUPLICATES} of them twice", flush=True)


def _wait_until(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _states(storage: Storage) -> Counter[str]:
    return Counter(str(job["state"]) for job in storage.list_jobs(route="order-placed", limit=10 * ORDERS))


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _orders(storage: Storage, folder: Path) -> bool:
    """What became of the orders, counted outside the database too; whether it is what was promised."""
    _wait_until(lambda: _states(storage)[JobState.SUCCEEDED] >= ORDERS and storage.depth("orders") == 0)
    states = _states(storage)
    runs = [line.split() for line in _lines(folder / "orders.log")]
    times = Counter(words[0] for words in runs)
    by_pod = Counter(words[2] for words in runs)
    print(f"jobs: {', '.join(f'{name} {number}' for name, number in states.items())}")
    for pod, number in sorted(by_pod.items()):
        print(f"  executed by the pod with {pod}: {number}")
    again = sum(number - 1 for number in times.values())
    print(f"orders executed: {len(times)}, of them more than once: {again}")
    right = len(times) == ORDERS and not again and states == {JobState.SUCCEEDED: ORDERS}
    print("each order was executed once" if right else "the counts are wrong", flush=True)
    return right


def _later(storage: Storage, folder: Path) -> bool:
    """An order that a program schedules: executed once, and not before its time."""
    scheduler = Scheduler(f"sqlite:///{folder / 'jobbridge.db'}")
    asked = scheduler.schedule(place_order, {"id": 7, "amount": 12.5}, correlation_id="later", delay=DELAY)
    scheduler.close()

    def found() -> dict[str, object]:
        return storage.find_jobs(str(asked.id))[0]

    done = _wait_until(lambda: found()["state"] == JobState.SUCCEEDED)
    job = found()
    waited = (int(str(job["started_at"])) - int(str(job["created_at"]))) / 1e6 if done else 0.0
    times = sum(line.startswith("later ") for line in _lines(folder / "orders.log"))
    print(f"an order scheduled for {DELAY:.0f} s later: executed {times}x, after {waited:.2f} s", flush=True)
    return times == 1 and waited >= DELAY


def _ticks(folder: Path) -> bool:
    """The recurring job: at each of its times, whoever is master, executed once."""
    _wait_until(lambda: len(_lines(folder / "ticks.log")) >= TICKS)
    times = Counter(_lines(folder / "ticks.log"))
    again = sum(number - 1 for number in times.values())
    print(f"a job recurring every second: executed at {len(times)} of its times, more than once: {again}", flush=True)
    return len(times) >= TICKS and not again


def _stay(folder: Path) -> None:
    python = shutil.which("jobbridge") or f"{Path(sys.executable).parent / 'jobbridge'}"
    print(
        f"""
The pods go on until Ctrl-C. In another terminal:
  cd {folder}
  {python} publish orders '{{"id": 7, "amount": 12.5}}' --correlation-id order-7    # a duplicate: no new job
  {python} publish orders '{{"id": 1007}}' --correlation-id order-1007               # no amount: a dead letter
  {python} status
  {python} jobs list --limit 5
  {python} recurring list
  {python} dead-letters list
Then kill one pod (kill -9), publish more, and see `{python} servers`.""",
        flush=True,
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nstopping the pods")


if __name__ == "__main__":
    sys.exit(main())
