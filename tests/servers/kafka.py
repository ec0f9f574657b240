"""Apache Kafka: one node that is broker and controller, from jars that Maven fetched once.

Where Maven reaches nothing, Tansu stands in: it speaks Kafka's protocol, keeps all in memory, and is wrong in some
places; a test that needs the real one asks `is_real`.
"""

import logging
import signal
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import ClassVar

from tests.servers.kafka_files import ensure_jars, ensure_tansu
from tests.servers.server import Server, ServerUnavailable, accepts_connections, find_program, free_port

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=16777216
"""
# The session is short because a killed broker can register again only when its old session has expired.


class Kafka(Server):
    """The real broker."""

    name: ClassVar[str] = "Kafka"
    is_real: ClassVar[bool] = True

    def __init__(
        self,
        run_directory: Path | None = None,
        *,
        directory: Path | None = None,
        port: int = 0,
        settings: dict[str, str] | None = None,
    ) -> None:
        """The settings are lines of the broker's properties, as in `{"message.max.bytes": "1000"}`."""
        super().__init__(run_directory, directory=directory, port=port)
        self.settings = settings or {}

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def bootstrap(self) -> str:
        """Give what a client calls `bootstrap_servers`."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> None:
        properties = self.directory / "server.properties"
        text = _PROPERTIES.format(port=self.port, controller_port=free_port(), data=self.directory / "data")
        properties.write_text(text + "".join(f"{key}={value}\n" for key, value in self.settings.items()))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = [*self._java("-Xmx128m"), "kafka.tools.StorageTool", "format"]
        self.run([*tool, f"--cluster-id={cluster}", "-c", str(properties)])

    def command(self) -> list[str]:
        return [*self._java("-Xmx512m"), "kafka.Kafka", str(self.directory / "server.properties")]

    def is_ready(self) -> bool:
        return accepts_connections(self.port) and _answers(self.bootstrap)

    def _java(self, heap: str) -> list[str]:
        jars = ensure_jars()
        options = [heap, "-XX:+UseSerialGC", "-Xshare:auto", "-XX:TieredStopAtLevel=1"]
        return [find_program("java"), *options, "-cp", f"{jars}/*"]


class Tansu(Server):
    """The stand-in: there in 20 ms, but a stop, a kill and a restart lose topics, records and offsets."""

    name: ClassVar[str] = "Tansu"
    is_real: ClassVar[bool] = False
    stop_signal: ClassVar[signal.Signals] = signal.SIGKILL  # to SIGTERM it listens after 5 s

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def bootstrap(self) -> str:
        """Give what a client calls `bootstrap_servers`."""
        return f"127.0.0.1:{self.port}"

    def prepare(self) -> None:
        ensure_tansu()

    def command(self) -> list[str]:
        place = f"tcp://127.0.0.1:{self.port}"
        places = ["--listener-url", place, "--advertised-listener-url", place]
        return [str(ensure_tansu()), "broker", *places, "--storage-engine", "memory://tansu/"]

    def is_ready(self) -> bool:
        return accepts_connections(self.port) and _answers(self.bootstrap)


def best_kafka() -> type[Kafka] | type[Tansu]:
    """Choose the real broker where its jars can be had, else the stand-in."""
    try:
        ensure_jars()
        find_program("java")
    except ServerUnavailable as reason:
        ensure_tansu()
        logging.getLogger(__name__).warning("Tansu stands in for Apache Kafka: %s", reason)
        return Tansu
    return Kafka


def _answers(bootstrap: str) -> bool:
    from kafka import KafkaAdminClient  # not at the top: importing it warns, which pytest can ignore only later
    from kafka.errors import KafkaError

    try:
        client = KafkaAdminClient(
            bootstrap_servers=bootstrap, request_timeout_ms=5000, retry_backoff_ms=50, reconnect_backoff_max_ms=200
        )
    except (KafkaError, OSError):
        return False
    try:
        client.list_topics()
    except (KafkaError, OSError):
        return False
    finally:
        client.close()
    return True
