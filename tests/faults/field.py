"""All that a fault run consists of: a store, a broker, pods behind proxies, a publisher, an observer, and the journal
of what is done to them.

Everything works in one directory below a run's directory, so that nothing outlives the run, however it ends.
"""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pika
import pika.exceptions
from kafka.errors import KafkaError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from bridge.config.load import load
from scheduler.storage.errors import StoreUnavailable
from scheduler.storage.opening import open_storage
from scheduler.storage.tables import jobs, messages, recurring, servers
from tests.acceptance.cluster import lag
from tests.faults.history import NEMESIS, OBSERVER, PUBLISH, Journal, Rows, now
from tests.faults.observer import Observer, all_rows, engine_of
from tests.faults.pods import Slot, Stalls, Supervisor, behind
from tests.faults.proxy import Proxy
from tests.faults.publisher import TOO_LARGE, Amqp, KafkaWire, Local, Publisher, Traffic, Wire
from tests.faults.terms import BOOKED, CONCURRENCY, ECHOES, KEY, LIMITED, LOCKED, PULSE, ROUTE, TASKS, effects
from tests.servers.kafka import Kafka
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import Server, free_port

HEARTBEAT = 2.0
GRACE = 8.0
QUEUE = "faults"
ECHO_QUEUE = "faults.echoes"
CONFIGURATION = """\
store: "${{STORE_URL}}"
brokers: {brokers}
sources:
  tasks: {{{source}, max_message_bytes: {limit}}}
  {echoes}: {{{echo_source}}}
defaults: {{retries: 3, backoff: {{base: 200ms, factor: 2, max: 2s}}}}
routes:
  - {{name: {limited}, from: tasks, when: {{"header:{route}": {limited}}}, concurrency: {concurrency}, {handler}}}
  - {{name: {locked}, from: tasks, when: {{"header:{route}": {locked}}}, lock: "header:{key}", {handler}}}
  - {{name: {booked}, from: tasks, when: {{"header:{route}": {booked}}}, handler: "tests.faults.handlers:book"}}
  - {{name: {tasks}, from: tasks, {handler}}}
  - {{name: {echoes}, from: {echoes}, {handler}}}
recurring:
  {pulse}: {{every: 1s, overlap: allow, misfire: all, handler: "tests.faults.handlers:pulse"}}
pod: {{heartbeat: {heartbeat:g}s, workers: 8, grace: {grace:g}s, name: "${{POD_NAME}}"}}
"""
SOURCES = {
    "rabbitmq": {
        "shared": f"broker: bus, queue: {QUEUE}",
        "every-pod": f"broker: bus, queue: {QUEUE}, exchange: {QUEUE}, delivery: every-pod",
    },
    "kafka": {
        "shared": f"broker: bus, topic: {QUEUE}, group: {QUEUE}, partitions: 6",
        "every-pod": f"broker: bus, topic: {QUEUE}, group: {QUEUE}, partitions: 6, delivery: every-pod",
    },
    "local": {"shared": f"queue: {QUEUE}"},
}
ECHO_SOURCES = {
    "rabbitmq": f"broker: bus, queue: {ECHO_QUEUE}",
    "kafka": f"broker: bus, topic: {ECHO_QUEUE}, group: {ECHO_QUEUE}, partitions: 6",
    "local": f"queue: {ECHO_QUEUE}",
}
UNCARRIED = {"rabbitmq": (), "kafka": ("headers",), "local": ("headers", "encoding")}
"""Kinds of poison that a broker does not pass on."""
QUIET = {"rabbitmq": 6.0, "kafka": 1.0, "local": 1.0}
"""Seconds for which nothing may be left: RabbitMQ tells what is unacknowledged every 5 s."""
GIANTS = {"rabbitmq": 8 * 1024**2, "kafka": 900_000, "local": 6 * 1024**2}


class Field:
    """One run's machinery. `folder` is where pods work and histories grow."""

    def __init__(
        self,
        run_directory: Path,
        folder: Path,
        *,
        store: str,
        broker: str,
        delivery: str,
        pods: int,
        seed: int,
        rate: float,
        pretenders: int = 0,
    ) -> None:
        self.store_kind, self.broker_kind = store, broker
        self.folder = folder
        self.journal = Journal(folder / NEMESIS)
        self._observer_journal = Journal(folder / OBSERVER)
        self._publish_journal = Journal(folder / PUBLISH)
        self._stack = contextlib.ExitStack()
        self.store = self._open_store(run_directory)
        self.store_url = self.store.url if self.store is not None else f"sqlite:///{folder / 'jobbridge.db'}"
        broker_links = [self._link() for _ in range(pods)] if broker == "kafka" else []
        self.broker = self._open_broker(run_directory, [proxy for proxy, _ in broker_links])
        self.slots = []
        self._configure(delivery)
        for number in range(pods):
            to_store, store_url = behind(self.store_url)
            broker_url = self.broker.url if self.broker is not None else ""
            to_broker, broker_url = broker_links[number] if broker_links else behind(broker_url)
            self.slots.append(
                Slot(
                    f"pod-{number}",
                    folder,
                    self.journal,
                    store_url=store_url,
                    to_store=to_store,
                    broker_url=broker_url,
                    to_broker=to_broker,
                    module="tests.faults.pretender" if number >= pods - pretenders else "bridge.cli.main",
                )
            )
            self._stack.callback(self.slots[-1].close)
        self.storage = open_storage(self.store_url, pool_size=2)
        self._stack.callback(self.storage.close)
        self.storage.migrate()
        self.traffic = Traffic(seed, GIANTS[broker], without=UNCARRIED[broker])
        self.publisher = Publisher(self._wire(delivery), self.traffic, rate, self._publish_journal, seed)
        self.observer = Observer(self.store_url, self._observer_journal)
        self.supervisor = Supervisor(self.slots)
        self.stalls = Stalls(self._observer_journal)
        self.engine = engine_of(self.store_url)
        effects.create(self.engine)
        self._stack.callback(self.engine.dispose)

    def _open_store(self, run_directory: Path) -> PostgreSQL | MariaDB | None:
        match self.store_kind:
            case "postgres":
                return self._stack.enter_context(PostgreSQL(run_directory))
            case "mariadb":
                return self._stack.enter_context(MariaDB(run_directory))
            case _:
                return None

    def _link(self) -> tuple[Proxy, str]:
        """A proxy before a listener of Kafka's that is there for one pod alone: a client goes where it is told to."""
        proxy = Proxy("127.0.0.1", free_port())
        return proxy, f"kafka://127.0.0.1:{proxy.port}"

    def _open_broker(self, run_directory: Path, links: list[Proxy]) -> RabbitMQ | Kafka | None:
        if self.broker_kind == "rabbitmq":
            return self._stack.enter_context(RabbitMQ(run_directory))
        if self.broker_kind == "local":
            return None
        port, controller = free_port(), free_port()
        names = [f"POD{number}" for number in range(len(links))]
        own = [("PLAINTEXT", port, port)]
        own += [(name, link.upstream_port, link.port) for name, link in zip(names, links, strict=True)]
        settings = {
            "listeners": ",".join(f"{name}://127.0.0.1:{at}" for name, at, _ in own)
            + f",CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{at}" for name, _, at in own),
            "listener.security.protocol.map": ",".join(
                f"{name}:PLAINTEXT" for name in ["PLAINTEXT", "CONTROLLER", *names]
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        }
        return self._stack.enter_context(Kafka(run_directory, port=port, settings=settings))

    def _configure(self, delivery: str) -> None:
        text = CONFIGURATION.format(
            brokers='{bus: "${BROKER_URL}"}' if self.broker is not None else "{}",
            source=SOURCES[self.broker_kind][delivery],
            echo_source=ECHO_SOURCES[self.broker_kind],
            limit=f"{TOO_LARGE // 1024}KiB",
            route=ROUTE,
            tasks=TASKS,
            limited=LIMITED,
            locked=LOCKED,
            booked=BOOKED,
            echoes=ECHOES,
            key=KEY,
            concurrency=CONCURRENCY,
            handler='handler: "tests.faults.handlers:work"',
            pulse=PULSE,
            heartbeat=HEARTBEAT,
            grace=GRACE,
        )
        (self.folder / "bridge.yaml").write_text(text)

    def _wire(self, delivery: str) -> Wire:
        if isinstance(self.broker, RabbitMQ):
            return Amqp(self.broker.url, QUEUE if delivery == "every-pod" else "", QUEUE)
        if isinstance(self.broker, Kafka):
            return KafkaWire(self.broker.bootstrap, QUEUE)
        configuration = load(
            self.folder / "bridge.yaml", environ={"STORE_URL": self.store_url, "POD_NAME": "publisher"}
        )
        return Local(self.storage, configuration.sources["tasks"])

    def start(self) -> None:
        """Start pods, wait until they are in, then everything else."""
        self.stalls.start()
        self.observer.start()
        for slot in self.slots:
            slot.start()
        if not wait_until(lambda: self.registered() >= len(self.slots), 60, 0.2):
            raise RuntimeError(f"the pods did not come up:\n{self.log_tail()}")
        self.supervisor.start()
        self.publisher.start()
        if not wait_until(lambda: self.publisher.confirmed > 20, 60, 0.1):
            raise RuntimeError(f"nothing can be published:\n{self.log_tail()}")

    def registered(self) -> int:
        """How many servers the store knows; 0 while it is away."""
        with contextlib.suppress(SQLAlchemyError), self.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(servers)).scalar_one())
        return 0

    def heal_store(self) -> None:
        """Have the store serve again."""
        _revive(self.store)

    def heal_broker(self) -> None:
        """Have the broker serve again."""
        _revive(self.broker)

    def heal(self) -> None:
        """End whatever faults are left, and have a pod in every slot."""
        self.heal_store()
        self.heal_broker()
        for slot in self.slots:
            slot.restore()
            with slot.lock:
                if not slot.pid:
                    slot.kill()
                    slot.start()

    def drain(self, seconds: float) -> Rows:
        """Publish no more, wait until every tick up to now has its job and nothing is left, and read everything."""
        self.publisher.stop()
        at = now()
        paused = wait_until(lambda: self._pause_once_past(at), seconds, 0.5)
        drained = self._runs_dry(seconds)
        rows = all_rows(self.store_url)
        rows.drained = paused and drained
        rows.left = self.left()
        return rows

    def _runs_dry(self, patience: float) -> bool:
        """Wait until nothing has been left for a while; False once nothing has become less for so many seconds."""
        fewest, since = sys.maxsize, time.monotonic()
        while True:
            left = self._unfinished() + sum(self.left().values())
            if left < fewest or fewest == 0 < left:
                fewest, since = left, time.monotonic()
            waited = time.monotonic() - since
            if fewest == 0 and waited > QUIET[self.broker_kind]:
                return True
            if waited > patience:
                return False
            time.sleep(0.5)

    def _pause_once_past(self, at: float) -> bool:
        """Have no more ticks, if all up to then are fired."""
        with contextlib.suppress(SQLAlchemyError, StoreUnavailable):
            with self.engine.connect() as connection:
                following = select(recurring.c.next_at).where(recurring.c.name == PULSE)
                if connection.execute(following).scalar_one() <= at * 1e6:
                    return False
            return self.storage.pause_recurring(PULSE)
        return False

    def _unfinished(self) -> int:
        with contextlib.suppress(SQLAlchemyError), self.engine.connect() as connection:
            waiting = jobs.c.state.in_(["ENQUEUED", "SCHEDULED", "PROCESSING"])
            return int(connection.execute(select(func.count()).select_from(jobs).where(waiting)).scalar_one())
        return sys.maxsize

    def left(self) -> dict[str, int]:
        """What the broker still holds for the pods; an empty answer is nothing."""
        found: dict[str, int] = {}
        try:
            if isinstance(self.broker, RabbitMQ):
                for name, depth in self.broker.queues().items():
                    found[f"unacknowledged in {name}"] = depth.unacked
                    found |= _exactly(self.broker.url, name)
            elif isinstance(self.broker, Kafka):
                for topic in (QUEUE, ECHO_QUEUE):
                    found[f"records of lag in {topic}"] = lag(self.broker, topic, topic)
            with self.engine.connect() as connection:
                found["messages in the store"] = connection.execute(
                    select(func.count()).select_from(messages)
                ).scalar_one()
        except (
            RuntimeError,
            SQLAlchemyError,
            KafkaError,
            pika.exceptions.AMQPError,
            subprocess.TimeoutExpired,
        ) as why:
            found[f"unknown: {type(why).__name__}"] = 1
        return {name: number for name, number in found.items() if number}

    def stop(self) -> None:
        """End the pods as their operator would, then everything."""
        for stop in (self.supervisor.stop, self.observer.stop, self.stalls.stop):
            stop()
        codes = [slot.terminate(GRACE + 15) for slot in self.slots]
        for slot, code in zip(self.slots, codes, strict=True):
            if code not in (0, 1):
                self.journal.write("crash", pid=0, code=f"{code} at the last SIGTERM of {slot.name}")

    def close(self) -> None:
        """Kill what still lives."""
        self._stack.close()
        for journal in (self.journal, self._observer_journal, self._publish_journal):
            journal.close()

    def log_tail(self, lines: int = 15) -> str:
        """The end of what each pod logged."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            for path in sorted(self.folder.glob("pod-*.log"))
        )


def _exactly(url: str, queue: str) -> dict[str, int]:
    """What of a queue the broker tells without delay. After a restart it holds messages that its lists don't show."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        told = connection.channel().queue_declare(queue, passive=True).method
    finally:
        connection.close()
    return {f"ready in {queue}": told.message_count, f"consumers missing on {queue}": int(told.consumer_count == 0)}


def _revive(server: Server | None) -> None:
    if server is None:
        return
    server.thaw()
    if server.is_running and server.is_ready():
        return
    server.kill()
    server.start()
