"""What is done to a run, drawn by a seed. F1 to F24 are the faults that the project's reliability rests on.

A fault is a function that does the harm, lets some seconds pass, and heals; what must be healed whatever happens is in
its `cleanup`. Every hit on a pod is written down before it lands, every healing after.

Promises: what was begun is healed, also where an exception or the end of the run comes in between. The order of faults,
their lengths and their victims' slots are those of the seed; the moments at which they land are not.

Not here, and where else: F6 and F24, races of a microsecond, are in tests/conformance and the simulation; F13's jumps
of the database's clock are in tests/unit and the simulation; F17's two versions need two versions; of F22, a queue
that is deleted loses its messages on purpose: tests/integration.
"""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pymysql
from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from tests.faults.field import GRACE, HEARTBEAT, QUEUE, Field
from tests.faults.pods import Slot
from tests.faults.proxy import Proxy
from tests.servers.kafka import Kafka
from tests.servers.mariadb import PASSWORD, USER, MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.rabbitmq import RabbitMQ

TIMEOUT = 4 * HEARTBEAT


@dataclass
class Act:
    """One fault while it is in force."""

    number: int
    field: Field
    dice: random.Random
    stopping: threading.Event
    protected: frozenset[str]
    """Slots whose pods are not to end or freeze."""
    landed: bool = True
    cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def hit(self, pid: int, how: str) -> None:
        """Write down that a pod is about to be hit."""
        self.field.journal.write("hit", n=self.number, pid=pid, how=how)

    def disturbs_store(self) -> None:
        """Write down that the store is about to be away, slow or locked for some pod or all."""
        self.field.journal.write("disturbs-store", n=self.number)

    def victim(self) -> Slot:
        """A slot with a live pod; any slot if there is none."""
        slots = [slot for slot in self.field.slots if slot.name not in self.protected]
        return self.dice.choice([slot for slot in slots if slot.pid] or slots)

    def wait(self, shortest: float, longest: float) -> None:
        """Let some seconds pass, fewer at the end of the run."""
        self.stopping.wait(self.dice.uniform(shortest, longest))


Doing = Callable[[Act], None]


class Kind(NamedTuple):
    name: str
    of: str
    """Its numbers in the list of faults."""
    target: str
    """pod, store or broker: of each only one fault is in force at a time."""
    doing: Doing
    brokers: tuple[str, ...] = ("rabbitmq", "kafka", "local")
    stores: tuple[str, ...] = ("postgres", "mariadb", "sqlite")
    chooses: bool = True
    """Whether the fault says which pod it falls upon; one that does not is kept away from pods that are protected."""


KINDS: dict[str, Kind] = {}
SERVED = ("postgres", "mariadb")
BROKERED = ("rabbitmq", "kafka")


def fault(name: str, of: str, target: str, **where: object) -> Callable[[Doing], Doing]:
    """Enter a fault under its name."""

    def enter(doing: Doing) -> Doing:
        KINDS[name] = Kind(name, of, target, doing, **where)  # type: ignore[arg-type]
        return doing

    return enter


# Pods


@fault("kill-pod", "F1-F4", "pod")
def kill_pod(act: Act) -> None:
    """SIGKILL at a random moment, and a new pod soon or late."""
    slot = act.victim()
    with slot.lock:
        act.hit(slot.pid, "dead")
        slot.kill()
    act.wait(0.0, 12.0)
    _start(slot)


@fault("kill-master", "F4", "pod")
def kill_master(act: Act) -> None:
    """The longest running one."""
    alive = [slot for slot in act.field.slots if slot.pid and slot.name not in act.protected]
    slot = min(alive, key=lambda one: _age(act.field, one.pid), default=act.victim())
    with slot.lock:
        act.hit(slot.pid, "dead")
        slot.kill()
    act.wait(0.0, 10.0)
    _start(slot)


def _age(field: Field, pid: int) -> int:
    """A server's number in the order of registration; the last one where that can't be known."""
    with contextlib.suppress(SQLAlchemyError), field.engine.connect() as connection:
        number = connection.execute(text("SELECT min(number) FROM jobbridge_servers WHERE pid = :pid"), {"pid": pid})
        return int(number.scalar() or 1 << 60)
    return 1 << 60


@fault("kill-all-pods", "F16", "pod")
def kill_all(act: Act) -> None:
    """All at once, and a cold start on what has piled up."""
    slots = [slot for slot in act.field.slots if slot.name not in act.protected]
    with contextlib.ExitStack() as locks:
        for slot in slots:
            locks.enter_context(slot.lock)
        for slot in slots:
            act.hit(slot.pid, "dead")
            slot.signal(signal.SIGKILL)
        for slot in slots:
            slot.kill()
    act.wait(1.0, 4.0)
    for slot in slots:
        _start(slot)


def _start(slot: Slot) -> None:
    with slot.lock:
        if not slot.pid:
            slot.kill()
            slot.start()


def _freeze(act: Act, shortest: float, longest: float) -> None:
    slot = act.victim()
    _may_hold_the_file(act)
    with slot.lock:  # nobody starts, ends or replaces it meanwhile
        act.landed = bool(slot.pid)
        act.hit(slot.pid, "frozen")
        slot.signal(signal.SIGSTOP)
        act.cleanup.callback(slot.signal, signal.SIGCONT)
        act.wait(shortest, longest)
        slot.signal(signal.SIGCONT)


def _may_hold_the_file(act: Act) -> None:
    """A pod that stands still in a transaction of a handler keeps SQLite's one write lock."""
    if act.field.store_kind == "sqlite":
        act.disturbs_store()


@fault("freeze-pod", "F5", "pod")
def freeze_pod(act: Act) -> None:
    """SIGSTOP for less than its timeout."""
    _freeze(act, 0.5, TIMEOUT - 2)


@fault("freeze-pod-past-timeout", "F5", "pod")
def freeze_pod_long(act: Act) -> None:
    """SIGSTOP until the others hold it for dead: a zombie."""
    _freeze(act, TIMEOUT, 2 * TIMEOUT)


@fault("rolling-deploy", "F15 F17 F18", "pod")
def roll(act: Act) -> None:
    """SIGTERM to one after the other, each replaced before the next."""
    for slot in act.field.slots:
        if slot.name in act.protected:
            continue
        act.hit(slot.pid, "ended")
        _terminate(act, slot)
        _start(slot)
        act.wait(0.5, 2.0)


@fault("sigterm-twice", "F18", "pod")
def hurry(act: Act) -> None:
    """The second signal hands back at once."""
    slot = act.victim()
    act.hit(slot.pid, "ended")
    _terminate(act, slot, twice_after=act.dice.uniform(0.05, 1.0))
    act.wait(0.0, 2.0)
    _start(slot)


def _terminate(act: Act, slot: Slot, twice_after: float | None = None) -> None:
    # A pod drains for its grace, and waits for a store that is away a little.
    with slot.lock:
        pid = slot.pid
        code = slot.terminate(GRACE + 30, twice_after=twice_after)
        if code not in (0, 1):
            act.field.journal.write("crash", pid=pid, code="SIGKILL: it did not end" if code is None else code)


@fault("wrong-clock", "F13", "pod")
def wrong_clock(act: Act) -> None:
    """A new pod whose clock is an hour off, either way."""
    slot = act.victim()
    act.hit(slot.pid, "ended")
    _terminate(act, slot)
    slot.clock_offset = act.dice.choice([-3600.0, 3600.0, 0.0])
    _start(slot)
    act.wait(2.0, 6.0)


@fault("handler-exits", "F21", "pod", chooses=False)
def handler_exits(act: Act) -> None:
    """`os._exit` in a handler, on whichever pod takes it."""
    act.field.publisher.inject(act.field.traffic.task(act="exit-once"))
    act.wait(2.0, 5.0)


@fault("handler-holds-the-lock", "F23", "pod", chooses=False)
def handler_holds(act: Act) -> None:
    """A call into C that lets no other thread of its pod run, past the timeout."""
    seconds = act.dice.uniform(4.0, 1.5 * TIMEOUT)
    _may_hold_the_file(act)
    act.field.publisher.inject(act.field.traffic.task(act="hold-once", sleep=seconds))
    act.wait(seconds, seconds + 3)


@fault("duplicate-storm", "F15", "pod")
def duplicate_storm(act: Act) -> None:
    """One message some hundred times at once."""
    message = act.field.traffic.task(sleep=0.05)
    for _ in range(400):
        act.field.publisher.inject(message)
    act.wait(1.0, 2.0)


# Links


def _on_store_link(act: Act) -> Proxy:
    slot = act.victim()
    assert slot.to_store is not None
    act.disturbs_store()
    act.hit(slot.pid, "cut")
    act.cleanup.callback(slot.to_store.restore)
    return slot.to_store


def _reset(act: Act, proxy: Proxy, times: int, longest: float) -> None:
    act.landed = False
    for _ in range(times):
        act.landed = proxy.reset() > 0 or act.landed
        act.wait(0.05, longest)


@fault("store-link-cut", "F12", "pod", stores=SERVED)
def store_cut(act: Act) -> None:
    """One pod reaches the store no more, and knows."""
    _on_store_link(act).cut()
    act.wait(0.5, 2 * TIMEOUT)


@fault("store-link-frozen", "F12", "pod", stores=SERVED)
def store_link_frozen(act: Act) -> None:
    """One pod reaches the store no more, and is told nothing."""
    _on_store_link(act).freeze()
    act.wait(0.5, 2 * TIMEOUT)


@fault("store-link-half-open", "F12", "pod", stores=SERVED)
def store_half_open(act: Act) -> None:
    """What a pod says arrives; no answer does."""
    _on_store_link(act).swallow_replies()
    act.wait(0.5, 2 * TIMEOUT)


@fault("store-link-slow", "F9", "pod", stores=SERVED)
def store_slow(act: Act) -> None:
    """Latency on each chunk of bytes."""
    _on_store_link(act).delay(act.dice.choice([0.02, 0.1, 0.5, 2.5]))
    act.wait(3.0, 10.0)


@fault("store-link-narrow", "F9", "pod", stores=SERVED)
def store_narrow(act: Act) -> None:
    """Few bytes a second."""
    _on_store_link(act).throttle(act.dice.choice([2_000.0, 20_000.0]))
    act.wait(3.0, 10.0)


@fault("store-link-reset", "F12", "pod", stores=SERVED)
def store_reset(act: Act) -> None:
    """All connections of one pod reset, several times."""
    _reset(act, _on_store_link(act), act.dice.randrange(1, 8), 0.6)


@fault("store-link-closes-slowly", "F12", "pod", stores=SERVED)
def store_slow_close(act: Act) -> None:
    """Ends of connections arrive late, while the server ends them."""
    _on_store_link(act).close_slowly(2.0)
    _end_connections(act)
    act.wait(2.0, 4.0)


@fault("lost-replies", "F8", "pod", stores=SERVED)
def lost_replies(act: Act) -> None:
    """The store did what it was asked, and the first bytes of its reply reset the connection."""
    proxy = _on_store_link(act)
    before = proxy.resets
    for _ in range(act.dice.randrange(3, 12)):
        proxy.reset_on_reply_after(act.dice.choice(LOSABLE))
        act.wait(0.1, 0.8)
    act.landed = proxy.resets > before


LOSABLE: tuple[Callable[[bytes], bool], ...] = (
    lambda sent: b"COMMIT" in sent,
    lambda sent: b"INSERT INTO jobbridge_jobs" in sent,
    lambda sent: b"jobbridge_jobs" in sent and b"UPDATE" in sent,
    lambda sent: b"jobbridge_" in sent,
    # A statement that is prepared already is sent as its number and its parameters alone.
    lambda sent: len(sent) > 200,
    lambda sent: len(sent) > 60,
)


def _on_broker_link(act: Act) -> Proxy:
    slot = act.victim()
    assert slot.to_broker is not None
    act.cleanup.callback(slot.to_broker.restore)
    return slot.to_broker


@fault("broker-link-cut", "F12", "pod", brokers=BROKERED)
def broker_cut(act: Act) -> None:
    """One pod reaches the broker no more, and knows."""
    _on_broker_link(act).cut()
    act.wait(0.5, 10.0)


@fault("broker-link-frozen", "F12", "pod", brokers=BROKERED)
def broker_link_frozen(act: Act) -> None:
    """One pod reaches the broker no more, and is told nothing."""
    _on_broker_link(act).freeze()
    act.wait(0.5, 15.0)


@fault("broker-link-half-open", "F12", "pod", brokers=BROKERED)
def broker_half_open(act: Act) -> None:
    """Its acks arrive; no message does."""
    _on_broker_link(act).swallow_replies()
    act.wait(0.5, 15.0)


@fault("broker-link-slow", "F12", "pod", brokers=BROKERED)
def broker_slow(act: Act) -> None:
    """Latency on each chunk of bytes."""
    _on_broker_link(act).delay(act.dice.choice([0.05, 0.3, 2.0]))
    act.wait(3.0, 8.0)


@fault("broker-link-narrow", "F12", "pod", brokers=BROKERED)
def broker_narrow(act: Act) -> None:
    """Few bytes a second."""
    _on_broker_link(act).throttle(act.dice.choice([2_000.0, 50_000.0]))
    act.wait(3.0, 8.0)


@fault("broker-link-reset", "F3 F12", "pod", brokers=BROKERED)
def broker_reset(act: Act) -> None:
    """All connections of one pod reset, with acks under way."""
    _reset(act, _on_broker_link(act), act.dice.randrange(1, 6), 1.5)


@fault("rebalance-storm", "F14", "pod", brokers=("kafka",))
def rebalance_storm(act: Act) -> None:
    """Another member of the group joins, takes partitions, commits nothing and leaves, again and again.

    It has landed once the coordinator knows it for a member: whether it gets partitions before another fault comes or
    not, the others' round has begun.
    """
    assert isinstance(act.field.broker, Kafka)
    act.landed = False
    for _ in range(act.dice.randrange(1, 4)):
        if act.stopping.is_set():
            break
        with contextlib.suppress(KafkaError, OSError):
            consumer = KafkaConsumer(
                QUEUE,
                bootstrap_servers=act.field.broker.bootstrap,
                group_id=QUEUE,
                enable_auto_commit=False,
                bootstrap_timeout_ms=3000,
                partition_assignment_strategy=[CooperativeStickyAssignor],
            )
            act.cleanup.callback(consumer.close)
            # The others hear of a new member at their next heartbeat, and let go of partitions in a round of their own.
            deadline = time.monotonic() + 10
            while not consumer.assignment() and time.monotonic() < deadline and not act.stopping.is_set():
                consumer.poll(timeout_ms=200)
                act.landed = act.landed or consumer._coordinator._generation.has_member_id()
            consumer.close()
        act.wait(0.0, 1.0)


# Servers


@fault("kill-store", "F7", "store", stores=SERVED)
def kill_store(act: Act) -> None:
    """SIGKILL to all its processes."""
    assert act.field.store is not None
    act.disturbs_store()
    act.field.store.kill()
    act.cleanup.callback(act.field.heal_store)
    act.wait(0.0, 2 * TIMEOUT)


@fault("restart-store", "F7", "store", stores=SERVED)
def restart_store(act: Act) -> None:
    """As its operator would."""
    assert act.field.store is not None
    act.disturbs_store()
    act.cleanup.callback(act.field.heal_store)
    act.field.store.stop()
    act.wait(0.0, 3.0)


@fault("freeze-store", "F9", "store", stores=SERVED)
def freeze_store(act: Act) -> None:
    """Connections stay open and nobody answers."""
    assert act.field.store is not None
    act.disturbs_store()
    act.cleanup.callback(act.field.store.thaw)
    act.field.store.freeze()
    act.wait(1.0, 2 * TIMEOUT)


@fault("store-ends-connections", "F7 F9", "store", stores=SERVED)
def end_connections(act: Act) -> None:
    """The server ends each connection, several times."""
    act.disturbs_store()
    act.landed = False
    for _ in range(act.dice.randrange(1, 6)):
        act.landed = _end_connections(act) or act.landed
        act.wait(0.1, 1.0)


def _end_connections(act: Act) -> bool:
    try:
        if isinstance(act.field.store, PostgreSQL):
            act.field.store.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'jobbridge' AND pid <> pg_backend_pid()"
            )
        elif isinstance(act.field.store, MariaDB):
            _kill_mariadb_connections(act.field.store)
    except Exception:  # the store is away, by another fault
        return False
    return True


def _kill_mariadb_connections(store: MariaDB) -> None:
    with contextlib.closing(_administer(store)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND user = 'jobbridge'"
        )
        for (number,) in cursor.fetchall():
            with contextlib.suppress(pymysql.MySQLError):
                cursor.execute(f"KILL {number:d}")


def _administer(store: MariaDB) -> pymysql.Connection:
    return pymysql.connect(
        host="127.0.0.1", port=store.port, user=USER, password=PASSWORD, autocommit=True, connect_timeout=5
    )


@fault("store-read-only", "F10", "store", stores=SERVED)
def read_only(act: Act) -> None:
    """As after a fail-over to the wrong one, or with a full disk: it answers, and takes nothing."""
    store = act.field.store
    assert store is not None
    act.disturbs_store()

    def set_to(value: str) -> None:
        if isinstance(store, PostgreSQL):
            store.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            store.execute("SELECT pg_reload_conf()")
        else:
            store.execute(f"SET GLOBAL read_only = {value}")

    def reset() -> None:
        for _ in range(50):
            try:
                act.field.heal_store()
                _writable(store)
                return
            except Exception:
                time.sleep(0.2)
        raise RuntimeError("the store stays read-only")

    act.cleanup.callback(reset)
    try:
        set_to("on" if isinstance(store, PostgreSQL) else "1")
        if isinstance(store, MariaDB):
            # Whom it must hold for; a restart, which heals it, gives the rights back.
            store.execute("REVOKE READ_ONLY ADMIN, SUPER ON *.* FROM 'jobbridge'@'%'")
            _end_connections(act)
    except Exception:
        act.landed = False
    act.wait(1.0, 8.0)


def _writable(store: PostgreSQL | MariaDB) -> None:
    if isinstance(store, PostgreSQL):
        store.execute("ALTER SYSTEM RESET default_transaction_read_only")
        store.execute("SELECT pg_reload_conf()")
    else:
        store.restart()


@fault("store-full-of-connections", "F10", "store", stores=SERVED)
def too_many(act: Act) -> None:
    """All its connections are taken, and those of the pods ended."""
    act.disturbs_store()
    taken: list[contextlib.closing] = []
    act.cleanup.callback(lambda: [one.close() for one in taken])
    for _ in range(2):
        _end_connections(act)
        with contextlib.suppress(Exception):
            while len(taken) < 210:
                taken.append(_take_connection(act))
    act.landed = len(taken) > 100
    act.wait(1.0, 6.0)


def _take_connection(act: Act) -> object:
    import psycopg

    store = act.field.store
    if isinstance(store, PostgreSQL):
        return psycopg.connect(f"host=127.0.0.1 port={store.port} user=jobbridge dbname=postgres connect_timeout=3")
    assert isinstance(store, MariaDB)
    return _administer(store)


@fault("locked-rows", "F9", "store", stores=SERVED)
def locked_rows(act: Act) -> None:
    """Another writer holds the rows that pods are about to write, in short turns."""
    act.disturbs_store()
    held = 0
    for _ in range(6):
        if act.stopping.is_set():
            break
        with contextlib.suppress(SQLAlchemyError), act.field.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            statement = "SELECT id FROM jobbridge_jobs WHERE state IN ('PROCESSING', 'ENQUEUED') FOR UPDATE SKIP LOCKED"
            held += len(connection.execute(text(statement)).all())
            act.wait(0.3, 2.0)
            connection.exec_driver_sql("ROLLBACK")
    act.landed = held > 0


@fault("locked-table", "F9", "store", stores=("postgres",))
def locked_table(act: Act) -> None:
    """Nobody reads or writes a job, as in a careless migration."""
    act.disturbs_store()
    act.landed = False
    with contextlib.suppress(SQLAlchemyError), act.field.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("LOCK TABLE jobbridge_jobs IN ACCESS EXCLUSIVE MODE")
        act.landed = True
        act.wait(1.0, TIMEOUT + 4)
        connection.exec_driver_sql("ROLLBACK")


@fault("locked-file", "F9", "store", stores=("sqlite",))
def locked_file(act: Act) -> None:
    """Another process writes for seconds."""
    act.disturbs_store()
    act.landed = False
    with contextlib.suppress(SQLAlchemyError), act.field.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        act.landed = True
        act.wait(0.5, TIMEOUT + 4)
        connection.exec_driver_sql("ROLLBACK")


@fault("kill-broker", "F11", "broker", brokers=BROKERED)
def kill_broker(act: Act) -> None:
    """SIGKILL to all its processes."""
    assert act.field.broker is not None
    act.field.broker.kill()
    act.cleanup.callback(act.field.heal_broker)
    act.wait(0.0, 6.0)


@fault("restart-broker", "F11", "broker", brokers=BROKERED)
def restart_broker(act: Act) -> None:
    """As its operator would."""
    assert act.field.broker is not None
    act.cleanup.callback(act.field.heal_broker)
    act.field.broker.stop()
    act.wait(0.0, 2.0)


@fault("freeze-broker", "F11", "broker", brokers=BROKERED)
def freeze_broker(act: Act) -> None:
    """Connections stay open and nobody answers."""
    assert act.field.broker is not None
    act.cleanup.callback(act.field.broker.thaw)
    act.field.broker.freeze()
    act.wait(1.0, 12.0)


@fault("broker-ends-connections", "F22", "broker", brokers=("rabbitmq",))
def broker_ends_connections(act: Act) -> None:
    """The broker closes all connections in good order."""
    assert isinstance(act.field.broker, RabbitMQ)
    act.field.broker.control("close_all_connections", "as the fault run asks")
    act.wait(0.5, 2.0)


@fault("broker-alarm", "F11", "broker", brokers=("rabbitmq",))
def broker_alarm(act: Act) -> None:
    """Out of memory: it stops reading those that publish."""
    broker = act.field.broker
    assert isinstance(broker, RabbitMQ)
    act.cleanup.callback(broker.set_memory_watermark, 0.4)
    broker.set_memory_watermark(0.0000001)
    act.wait(1.0, 6.0)


class Nemesis(threading.Thread):
    """Draws faults for some targets until it is stopped.

    :param target: whose faults this one draws; empty: all of them.
    :param only: these kinds, in this order and again from the first, instead of a draw.
    """

    def __init__(
        self,
        field: Field,
        seed: int,
        gap: tuple[float, float],
        *,
        target: str = "",
        only: tuple[str, ...] = (),
        protected: frozenset[str] = frozenset(),
        first_number: int = 0,
    ) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._field = field
        self._dice = random.Random(f"{seed} {target}")
        self._gap = gap
        self._only = [KINDS[name] for name in only if not target or KINDS[name].target == target]
        self._protected = protected
        self._kinds = [] if only else [kind for kind in KINDS.values() if self._is_possible(kind, target)]
        self._number = first_number
        self.stopping = threading.Event()
        self.errors: list[str] = []

    @property
    def has_faults(self) -> bool:
        """Whether there is anything that this one could do to this store and broker."""
        return bool(self._only or self._kinds)

    def _is_possible(self, kind: Kind, target: str) -> bool:
        return (
            (not target or kind.target == target)
            and (kind.chooses or not self._protected)
            and self._field.broker_kind in kind.brokers
            and self._field.store_kind in kind.stores
        )

    def _order(self) -> Iterator[Kind]:
        """Each kind as often as the others, in an order of the seed."""
        while self.has_faults:
            yield from self._only or self._dice.sample(self._kinds, len(self._kinds))

    def run(self) -> None:
        for kind in self._order():
            if self.stopping.wait(self._dice.uniform(*self._gap)):
                return
            self._do(kind)

    def _do(self, kind: Kind) -> None:
        self._number += 1
        # Dice of its own: how a fault goes shifts no draw of the next.
        dice = random.Random(self._dice.random())
        act = Act(self._number, self._field, dice, self.stopping, self._protected)
        self._field.journal.write("begin", n=act.number, kind=kind.name)
        try:
            with act.cleanup:
                kind.doing(act)
        except Exception as error:
            act.landed = False
            self.errors.append(f"{kind.name}: {type(error).__name__}: {error}")
        self._field.journal.write("healed", n=act.number, landed=act.landed)

    def stop(self) -> None:
        """Begin no more, and heal what is in force."""
        self.stopping.set()
        self.join(120)
