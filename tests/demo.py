"""`make run`: the main job, seen at work.

Three pods on one SQLite file and the local queue; orders are published, a third of them twice; each is executed
once. On a terminal the pods go on until Ctrl-C. Without one the program ends, with 0 only if the counts are right.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bridge.config.model import LocalSourceSection
from bridge.publish import Outgoing
from bridge.sources.local import publish_local
from scheduler.job import JobState
from scheduler.storage import Storage, open_storage

PODS = 3
ORDERS = 200
DUPLICATES = 100
DEADLINE = 60.0

CONFIGURATION = """\
store: sqlite:///jobbridge.db
sources:
  orders: {queue: orders, batch: {max: 10}}
routes:
  - {name: order-placed, from: orders, handler: "bridge.demo:place_order"}
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
        if not _wait_until_done(storage):
            print(f"the orders were not done within {DEADLINE:.0f} s: see {folder}", file=sys.stderr)
            return 1
        right = _show(storage, folder)
        keep = not right
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
    orders = (Outgoing(f'{{"id": {k}, "amount": {k / 4}}}'.encode(), f"order-{k}".encode()) for k in numbers)
    count = publish_local(storage, LocalSourceSection(queue="orders"), orders)
    storage.close()
    print(f"published {count} messages: {ORDERS} orders, {DUPLICATES} of them twice", flush=True)


def _wait_until_done(storage: Storage) -> bool:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if storage.count_by_state()[JobState.SUCCEEDED] >= ORDERS and storage.depth("orders") == 0:
            return True
        time.sleep(0.1)
    return False


def _show(storage: Storage, folder: Path) -> bool:
    """What happened, counted outside the database too; whether it is what was promised."""
    states = storage.count_by_state()
    runs = [line.split() for line in (folder / "orders.log").read_text().splitlines()]
    times = Counter(words[0] for words in runs)
    by_pod = Counter(words[2] for words in runs)
    print(f"jobs: {', '.join(f'{name} {number}' for name, number in states.items() if number)}")
    for pod, number in sorted(by_pod.items()):
        print(f"  executed by the pod with {pod}: {number}")
    again = sum(number - 1 for number in times.values())
    print(f"orders executed: {len(times)}, of them more than once: {again}")
    right = len(times) == ORDERS and not again and states[JobState.SUCCEEDED] == sum(states.values()) == ORDERS
    print("each order was executed once" if right else "THE COUNTS ARE WRONG", flush=True)
    return right


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
