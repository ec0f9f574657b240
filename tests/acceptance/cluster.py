"""Pods as processes, and what they did: by the database, and by the effects of their handlers."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from kafka import KafkaConsumer, TopicPartition

from bridge.assembly import store
from bridge.config.load import load
from bridge.config.model import AmqpSourceSection, KafkaSourceSection, LocalSourceSection
from bridge.message import Message
from bridge.publish import publish_amqp, publish_kafka
from bridge.sources.local import publish_local
from scheduler.job import JobState
from scheduler.storage import StoreUnavailable
from tests.acceptance.handlers import EFFECTS
from tests.servers.kafka import Kafka
from tests.servers.processes import wait_until

REPOSITORY = str(Path(__file__).parents[2])
CONFIGURATION = """\
store: "{store}"
brokers: {brokers}
sources:
  tasks: {source}
routes:
  - {{name: tasks, from: tasks, handler: "tests.acceptance.handlers:work"{route}}}
pod: {{heartbeat: {heartbeat}, workers: {workers}, grace: {grace}, name: "${{POD_NAME:-pod}}"}}
"""


class Effect(NamedTuple):
    """A line that a handler wrote."""

    what: str
    correlation_id: str
    pid: int
    version: int
    at: float


class Cluster:
    """Pods that share a store, a broker and a working directory."""

    def __init__(
        self,
        folder: Path,
        *,
        store: str,
        source: str = "{queue: tasks}",
        broker: str = "",
        heartbeat: str = "2s",
        workers: int = 8,
        grace: str = "20s",
        route: str = "",
        migrate: bool = True,
    ) -> None:
        text = CONFIGURATION.format(
            store=store,
            brokers=f"{{bus: {json.dumps(broker)}}}" if broker else "{}",
            source=source,
            route=route,
            heartbeat=heartbeat,
            workers=workers,
            grace=grace,
        )
        (folder / "bridge.yaml").write_text(text)
        self._open(folder)
        if migrate:
            self.storage.migrate()

    @classmethod
    def over(cls, folder: Path) -> Self:
        """A cluster of the configuration that stands in the folder; its store may be away."""
        cluster = cls.__new__(cls)
        cluster._open(folder)
        return cluster

    def _open(self, folder: Path) -> None:
        self.folder = folder
        self.pods: list[subprocess.Popen[bytes]] = []
        self.ended: list[subprocess.Popen[bytes]] = []
        self.configuration = load(folder / "bridge.yaml", environ={})
        self.storage = store(self.configuration, pool_size=2)

    def start(self, number: int = 1, *arguments: str, code: str = REPOSITORY) -> list[subprocess.Popen[bytes]]:
        """Start so many pods more; they are in when this returns.

        :param code: what comes first on their PYTHONPATH.
        """
        before = len(self.storage.servers())
        started = [self._pod(*arguments, code=code) for _ in range(number)]
        assert wait_until(lambda: len(self.storage.servers()) >= before + number, 30), self.log()
        return started

    def _pod(self, *arguments: str, code: str = REPOSITORY) -> subprocess.Popen[bytes]:
        name = f"pod-{len(self.pods) + len(self.ended)}"
        with (self.folder / "pods.log").open("ab") as log:
            pod = subprocess.Popen(
                [sys.executable, "-m", "bridge.cli.main", "run", "--log-format", "text", *arguments],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": code, "POD_NAME": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pods.append(pod)
        return pod

    def kill(self, pod: subprocess.Popen[bytes]) -> None:
        """SIGKILL."""
        pod.kill()
        pod.wait()
        self._gone(pod)

    def terminate(self, pod: subprocess.Popen[bytes], seconds: float = 30) -> int:
        """SIGTERM; its exit code."""
        pod.terminate()
        code = pod.wait(seconds)
        self._gone(pod)
        return code

    def _gone(self, pod: subprocess.Popen[bytes]) -> None:
        self.pods.remove(pod)
        self.ended.append(pod)

    def restart_dead(self) -> int:
        """Start a pod for each that ended by itself; how many."""
        dead = [pod for pod in self.pods if pod.poll() is not None]
        for pod in dead:
            self._gone(pod)
            self._pod()
        return len(dead)

    def publish(self, tasks: Iterable[tuple[str, dict[str, object]]]) -> int:
        """Publish (correlation ID, body) through the source's broker, confirmed."""
        return self.publish_raw(
            Message(json.dumps(body).encode(), correlation=correlation.encode()) for correlation, body in tasks
        )

    def publish_raw(self, messages: Iterable[Message]) -> int:
        """Publish messages as they are."""
        section = self.configuration.sources["tasks"]
        if isinstance(section, LocalSourceSection):
            return publish_local(self.storage, section, messages)
        broker = self.configuration.brokers["bus"]
        if isinstance(section, AmqpSourceSection):
            return publish_amqp(broker, section, messages)
        assert isinstance(section, KafkaSourceSection)
        return publish_kafka(broker, section, messages)

    def counts(self) -> dict[str, int]:
        """The jobs by state, those that are not zero; nothing while the store is away."""
        try:
            return {state.value: number for state, number in self.storage.count_by_state().items() if number}
        except StoreUnavailable:
            return {}

    def wait_for(self, wanted: dict[str, int], seconds: float = 60) -> None:
        """Until the jobs by state are just these."""
        assert wait_until(lambda: self.counts() == wanted, seconds, 0.1), (
            f"{self.counts()} is not {wanted}\n{self.log()}"
        )

    def wait_done(self, number: int, seconds: float = 60) -> None:
        """Until so many jobs succeeded, and there are no others."""
        self.wait_for({JobState.SUCCEEDED.value: number}, seconds)

    def effects(self) -> list[Effect]:
        """All lines that handlers wrote, in order."""
        file = self.folder / EFFECTS
        lines = (line.split() for line in file.read_text().splitlines()) if file.exists() else ()
        return [Effect(w[0], w[1], int(w[2]), int(w[3]), float(w[4])) for w in lines]

    def starts(self) -> Counter[str]:
        """How often each job's handler was started."""
        return Counter(effect.correlation_id for effect in self.effects() if effect.what == "start")

    def log(self, lines: int = 60) -> str:
        """The tail of what the pods logged."""
        file = self.folder / "pods.log"
        return "\n".join(file.read_text().splitlines()[-lines:]) if file.exists() else "no log"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods:
            pod.send_signal(signal.SIGCONT)
            pod.terminate()
        for pod in self.pods:
            try:
                pod.wait(10)
            except subprocess.TimeoutExpired:
                pod.kill()
                pod.wait()
        self.storage.close()


def lag(kafka: Kafka, group: str, topic: str) -> int:
    """How many records of the topic the group has not committed."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        ends = consumer.end_offsets(partitions)
        return sum(end - (consumer.committed(partition) or 0) for partition, end in ends.items())
    finally:
        consumer.close()


def tasks(number: int, duplicates: int = 0, **body: object) -> Iterator[tuple[str, dict[str, object]]]:
    """So many tasks, and the first `duplicates` of them once more, mixed."""
    numbers = [*range(number), *range(duplicates)]
    step = next(k for k in range(len(numbers) * 2 // 3 | 1, len(numbers) * 2, 2) if _coprime(k, len(numbers)))
    for k in range(len(numbers)):
        chosen = numbers[k * step % len(numbers)]
        yield f"task-{chosen}", {"id": chosen, **body}


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1
