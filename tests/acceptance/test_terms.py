"""Due times, limits and locks over pods that are killed: what a counter outside the database sees."""

import random
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from bridge.message import Message
from scheduler import Scheduler
from scheduler.storage.records import Act
from tests.acceptance.cluster import Cluster, Effect, tasks
from tests.acceptance.handlers import work
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

SHARED = "{{broker: bus, queue: {name}}}"
INTERVAL = 1.0
RESCUED_WITHIN = 6 * INTERVAL
SLACK = 2.0
"""Seconds for a busy machine."""


class Killer:
    """Kills pods at random and starts others; keeps the times."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self.killed: dict[int, float] = {}

    def kill_one(self) -> None:
        pod = self._random.choice(self._cluster.pods)
        pod.kill()
        pod.wait()
        self.killed[pod.pid] = time.time()
        self._cluster.restart_dead()


def most_at_once(effects: Iterable[Effect], killed: dict[int, float]) -> int:
    """The most handlers that ran at one time; one that a kill cut off ran until then."""
    changes: list[tuple[float, int]] = []
    running: dict[tuple[str, int, int], float] = {}
    for effect in effects:
        run = (effect.correlation_id, effect.pid, effect.version)
        if effect.what == "start":
            running[run] = effect.at
        else:
            changes += [(running.pop(run), 1), (effect.at, -1)]
    changes += [change for run, at in running.items() for change in ((at, 1), (killed[run[1]], -1))]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("database", ["postgresql_url", "mariadb_url", "sqlite_url"])
def test_a_limit_holds_over_all_pods(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Three pods of eight workers; no more than ten run at once, which takes two pods, and all run."""
    url = request.getfixturevalue(database)
    with Cluster(tmp_path, store=url, route=", concurrency: 10") as cluster:
        cluster.start(3)
        cluster.publish(tasks(100, sleep=0.15))
        cluster.wait_done(100)
        assert set(cluster.starts().values()) == {1}
        assert most_at_once(cluster.effects(), {}) in (9, 10)
        assert len({effect.pid for effect in cluster.effects()}) > 1


def test_a_limit_holds_while_pods_are_killed(
    rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path
) -> None:
    """The places of a killed pod's jobs are free again once these are rescued, and never before it is dead."""
    source = SHARED.format(name=queue_name)
    with Cluster(
        tmp_path, store=postgresql_url, broker=rabbitmq.url, source=source, heartbeat="1s", route=", concurrency: 3"
    ) as cluster:
        cluster.start(3)
        cluster.publish(tasks(40, sleep=0.5))
        killer = Killer(cluster, 1)
        for _ in range(3):
            time.sleep(1.5)
            killer.kill_one()
        cluster.wait_done(40, 90)
        assert 1 < most_at_once(cluster.effects(), killer.killed) <= 3


def test_a_killed_holder_frees_its_place_within_the_rescue_bound(postgresql_url: str, tmp_path: Path) -> None:
    """One place: the next job starts when the one that held it is found."""
    with Cluster(tmp_path, store=postgresql_url, heartbeat="1s", route=", concurrency: 1") as cluster:
        cluster.start(1)
        cluster.publish([("holds", {"id": 1, "sleep": 60})])
        assert wait_until(lambda: bool(cluster.effects()), 20)
        cluster.start(1)
        cluster.publish([("waits", {"id": 2})])
        cluster.kill(cluster.pods[0])
        died = time.time()
        (tmp_path / "hurry").touch()
        cluster.wait_done(2)
        starts = [effect for effect in cluster.effects() if effect.what == "start"]
        assert min(effect.at for effect in starts if effect.at > died) - died < RESCUED_WITHIN + SLACK


def test_a_rate_holds_over_all_pods(postgresql_url: str, tmp_path: Path) -> None:
    """No more than ten start within any two seconds, however these are laid."""
    with Cluster(tmp_path, store=postgresql_url, route=", rate: 10/2s") as cluster:
        cluster.start(2)
        cluster.publish(tasks(35))
        cluster.wait_done(35)
        starts = sorted(effect.at for effect in cluster.effects() if effect.what == "start")
        assert max(sum(start <= other < start + 2.0 for other in starts) for start in starts) in range(8, 11)


def test_jobs_of_one_lock_run_one_at_a_time_in_order(
    rabbitmq: RabbitMQ, postgresql_url: str, queue_name: str, tmp_path: Path
) -> None:
    """Five customers, each one's orders in the order of arrival, while pods are killed."""
    source = SHARED.format(name=queue_name)
    with Cluster(
        tmp_path,
        store=postgresql_url,
        broker=rabbitmq.url,
        source=source,
        heartbeat="1s",
        route=', lock: "header:customer"',
    ) as cluster:
        cluster.start(1)
        cluster.publish_raw(
            Message(b'{"id": 1, "sleep": 0.05}', (("customer", b"c%d" % (k % 5)),), b"order-%d" % k) for k in range(150)
        )
        assert wait_until(lambda: sum(cluster.counts().values()) == 150, 30)
        cluster.start(2)
        killer = Killer(cluster, 2)
        for _ in range(2):
            time.sleep(1.0)
            killer.kill_one()
        cluster.wait_done(150, 90)
        of_customer: dict[int, list[Effect]] = defaultdict(list)
        for effect in cluster.effects():
            of_customer[int(effect.correlation_id.removeprefix("order-")) % 5].append(effect)
        for effects in of_customer.values():
            assert most_at_once(effects, killer.killed) == 1
            first = list(dict.fromkeys(effect.correlation_id for effect in effects))
            assert first == sorted(first, key=lambda name: int(name.removeprefix("order-")))


def test_scheduled_jobs_run_when_they_are_due(postgresql_url: str, tmp_path: Path) -> None:
    """A thousand, none early; also while the master is killed."""
    with Cluster(tmp_path, store=postgresql_url, heartbeat="1s", workers=20) as cluster:
        (tmp_path / "bridge.yaml").write_text(
            (tmp_path / "bridge.yaml").read_text() + 'handlers: ["tests.acceptance.handlers:work"]\n'
        )
        cluster.start(3)
        scheduler = Scheduler(postgresql_url)
        for k in range(1000):
            scheduler.schedule(work, {"id": k}, correlation_id=f"s-{k}", delay=4 + k * 0.008)
        scheduler.close()
        due = {
            str(row["correlation_id"]): int(str(row["due_at"])) / 1e6 for row in cluster.storage.list_jobs(limit=1000)
        }
        assert len(due) == 1000
        time.sleep(5)
        cluster.kill(cluster.pods[0])
        cluster.wait_done(1000, 60)
        late = [effect.at - due[effect.correlation_id] for effect in cluster.effects() if effect.what == "start"]
        assert min(late) >= 0
        assert sorted(late)[-20] < RESCUED_WITHIN + SLACK


def test_a_job_that_expires_is_deleted_with_its_reason(postgresql_url: str, tmp_path: Path) -> None:
    """It waited behind others for too long, and never runs."""
    with Cluster(tmp_path, store=postgresql_url, workers=1, route=", concurrency: 1, expires: 2s") as cluster:
        cluster.start(1)
        cluster.publish([("first", {"id": 1, "sleep": 6}), ("late", {"id": 2})])
        cluster.wait_for({"SUCCEEDED": 1, "DELETED": 1})
        (gone,) = [job for job in cluster.storage.list_jobs() if job["state"] == "DELETED"]
        assert gone["correlation_id"] == "late"
        assert "late" not in cluster.starts()
        (found,) = cluster.storage.find_jobs("late", ["tasks"])
        assert [event["kind"] for event in cluster.storage.job_events(found["id"].bytes)] == ["EXPIRED"]  # type: ignore[attr-defined]
        assert cluster.storage.requeue(found["id"].bytes) is Act.DONE  # type: ignore[attr-defined]
        cluster.wait_done(2)
