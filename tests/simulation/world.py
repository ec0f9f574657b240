"""The world of one run: a virtual clock, who may act next, what goes wrong, and the drain.

All that is random comes from one generator that the seed starts, so a seed is one exact replay. Time passes only here:
a call to the store takes a few virtual milliseconds, and when nobody is ready it jumps to the next who will be. Between
the statements of one step, steps of other threads and other pods run, or the whole pod freezes there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest import mock

from bridge import publish
from bridge.config.model import AmqpSourceSection, Broker, Configuration, KafkaSourceSection
from bridge.dead_letters import envelope
from bridge.message import Message
from bridge.publish import PublishError
from bridge.sources import amqp_session, kafka_session
from scheduler.inflight import Run
from tests.simulation.amqp import AmqpBroker, Loop
from tests.simulation.checker import OPERATOR, Checker
from tests.simulation.driver import Driver, OpenGate, open_raw
from tests.simulation.faults import Faults
from tests.simulation.kafka import PARTITIONS, KafkaCluster
from tests.simulation.pods import NEVER, Actor, Crash, SimPod
from tests.simulation.profile import Profile
from tests.simulation.traffic import Plan, Published, Traffic

EPOCH = 1_800_000_000.0
TURN = 0.000_01
DEEPEST = 2
"""How many steps may be interrupted at once."""
DRAIN = 400.0
"""Virtual seconds that a drain may take."""
KAFKA_PATIENCE = 10.0


class Outcome(NamedTuple):
    """What one run came to."""

    seed: int
    violations: list[tuple[str, str]]
    landed: Counter[str]
    published: int
    acks: int
    jobs: int
    starts: int
    rescues: int
    worst_rescue: float
    seconds: float
    """Virtual."""
    digest: str
    """Of the trace."""
    reached: Counter[str]
    """How often what routes may ask for mattered."""

    @property
    def invalid(self) -> str:
        """Why the run shows nothing; empty: it does."""
        if not self.published:
            return "nothing was published"
        if not self.acks:
            return "nothing was acked"
        return "" if self.landed else "no fault landed"


class World:
    """One run."""

    def __init__(
        self,
        seed: int,
        driver: Driver,
        path: Path,
        tell: Callable[[str], object] | None = None,
        shape: Callable[[Profile], object] = lambda profile: None,
    ) -> None:
        self.seed = seed
        self.driver = driver
        self.path = path
        self.random = Random(f"jobbridge {seed}")
        self.now = 100.0
        self.actors: list[Actor] = []
        self.pods: list[SimPod] = []
        """All that ever lived."""
        self.landed_kinds: Counter[str] = Counter()
        self.starts_made = 0
        self.published: list[Published] = []
        self.local: dict[tuple[str, bytes], Published] = {}
        self.amqp = AmqpBroker()
        self.kafka = KafkaCluster(self.random)
        self.profile = Profile(self.random)
        shape(self.profile)
        self.traffic = Traffic(self.random, self.profile.sources, self.profile.terms, kills=self.profile.kills)
        self.relayed: set[tuple[str, bytes]] = set()
        """By source and body: what a broker has confirmed to a pod that sent it."""
        self._acting: SimPod | None = None
        self._raw = open_raw(path)
        self.checker = Checker(self, self._raw)
        self._tell = tell
        self._digest = blake2b(digest_size=12)
        self._depth = 0
        self.clock_is_off = 0.0
        self.store_down_until = 0.0
        self._slow = self.profile.rates.get("slow call", 0.0)
        self.faulty = True
        self._returning = 0
        self._alone_since = self.now
        self._disturbances: list[tuple[float, float]] = []
        self._operator = driver.open(
            path, OpenGate(OPERATOR, self.database_now, self.monotonic), self.random, self.sleep, 1
        )
        self._configuration = Configuration.model_validate(self.profile.configuration())

    # The clocks.

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def database_now(self) -> int:
        """Whole milliseconds, as SQLite's clock is read."""
        return int((EPOCH + self.now + self.clock_is_off) * 1000) * 1000

    def pass_time(self, short: bool) -> None:
        self.now += self.random.random() * (0.001 if short else 0.004)

    # What is told.

    def trace(self, line: Callable[[], str]) -> None:
        text = f"{self.now:.6f} {line()}"
        self._digest.update(text.encode())
        if self._tell is not None:
            self._tell(text)

    def landed(self, kind: str, text: str = "", until: float = 0.0) -> None:
        """A fault took place, and lasts until then."""
        self.landed_kinds[kind] += 1
        self.trace(lambda: f"FAULT {kind} {text}")
        self.disturbed(until)

    def disturbed(self, until: float = 0.0) -> None:
        """From now on, until then, a rescue may take longer."""
        self._disturbances.append((self.now, max(self.now, until)))

    def calm_since(self, since: float, interval: float) -> float:
        """The end of the last disturbance that falls within the time a rescue may take."""
        for start, end in sorted(self._disturbances):
            if start <= since + 7 * interval and end > since:
                since = end
        return since

    def strikes(self, kind: str) -> bool:
        """Whether this goes wrong now."""
        rate = self.profile.rates.get(kind)
        if rate is None or not self.faulty or self.random.random() >= rate:
            return False
        if not kind.startswith("crash"):
            self.landed(kind)
        else:
            self.landed_kinds[kind] += 1
        return True

    # Who acts.

    def _awake(self, pod: SimPod) -> bool:
        if pod.frozen_since is not None and self.now >= pod.frozen_until:
            pod.frozen_since = None
        return pod.frozen_since is None

    def _ready(self) -> list[Actor]:
        now = self.now
        return [
            actor
            for actor in self.actors
            if not actor.busy
            and (
                actor.due <= now
                or (actor.event is not None and actor.event.is_set())
                or (actor.wakes is not None and actor.wakes())
            )
            and (actor.pod is None or actor.pod.frozen_since is None or self._awake(actor.pod))
        ]

    def _take(self, actor: Actor) -> None:
        self.now += TURN
        self.trace(lambda: f"{actor.pod.label if actor.pod else 'world'} {actor.name}")
        actor.busy = True
        before, self._acting = self._acting, actor.pod
        try:
            actor.due = self.now + actor.step()
        except Crash:
            assert actor.pod is not None and not actor.pod.alive
        finally:
            actor.busy = False
            self._acting = before

    def advance(self, until: float) -> None:
        """Let all act until then."""
        while self.now < until:
            ready = self._ready()
            if ready:
                self._take(self.random.choice(ready))
                continue
            dues = [max(a.due, a.pod.frozen_until if a.pod is not None else 0.0) for a in self.actors if not a.busy]
            self.now = min(until, max(self.now, min(dues, default=until)))

    def others_run(self, pod: SimPod) -> None:
        """Between two statements of a step: others go on meanwhile, or this pod freezes here."""
        if self._depth >= DEEPEST or not self.faulty:
            return
        chance = self.random.random()
        if chance >= self.profile.interleaving:
            return
        before, self._depth = self.now, self._depth + 1
        held_up = (before, NEVER, "held up")
        pod.hits.append(held_up)
        try:
            if chance < self.profile.rates.get("freeze in a call", 0.0) and pod.frozen_since is None:
                seconds = self.random.uniform(1.0, 8.0) * pod.interval
                pod.freeze(seconds, "freeze in a call")
                # The thread that was caught here may be the last to wake.
                self.advance(self.now + seconds + self.random.choice((0.0, 0.0, 0.5, 2.0)) * pod.interval)
            elif chance < 2 * self._slow:
                self.landed("slow call", pod.label)
                self.advance(self.now + self.random.uniform(0.05, 2.5) * pod.interval)
            else:
                for _ in range(self.random.randint(1, 5)):
                    ready = self._ready()
                    if not ready:
                        break
                    self._take(self.random.choice(ready))
        finally:
            self._depth -= 1
            pod.hits.remove(held_up)
        if self.now - before > 0.25 * pod.interval:
            pod.hits.append((before, self.now, "held up"))
            self.disturbed()

    def _every(self, name: str, step: Callable[[], float], delay: float = 0.0) -> None:
        self.actors.append(Actor(name, step, self.now + delay, None, None))

    # Pods.

    def start(self, name: str) -> None:
        given = self._configuration
        named = given.model_copy(update={"pod": given.pod.model_copy(update={"name": name})})
        pod = SimPod(self, name, named, len(self.pods) + 1)
        self.pods.append(pod)
        self.trace(lambda: f"START {pod.label}")
        # While nobody lives nobody rescues.
        self._disturbances.append((self.now if len(self.living()) > 1 else self._alone_since, self.now))

    def restart_later(self, pod: SimPod) -> None:
        """This one has ended; another takes its name."""
        self._returning += 1
        if not self.living():
            self._alone_since = self.now

        def step() -> float:
            self.actors.remove(actor)
            self._returning -= 1
            self.start(pod.name)
            return NEVER

        delay = self.random.choice((0.2, 3.0, 20.0)) * self.random.random()
        actor = Actor(f"restart {pod.name}", step, self.now + delay, None, None)
        self.actors.append(actor)

    def living(self) -> list[SimPod]:
        return [pod for pod in self.pods if pod.alive]

    def pod_of(self, server: bytes) -> SimPod | None:
        return next((pod for pod in self.pods if server in pod.registrations), None)

    def store_is_down(self, pod: SimPod) -> bool:
        return self.now < self.store_down_until or self.now < pod.cut_until

    def starts(self, pod: SimPod, run: Run) -> tuple[Plan, int]:
        """A handler is called: what it is to do, and for which time."""
        self.starts_made += 1
        self.checker.started(pod, run)
        job = run.job
        self.trace(lambda: f"{pod.label} runs {job.key.hex()[:8]} version {job.version}")
        plan = self.traffic.plan(job.namespace, job.correlation_bytes)
        plan.calls += 1
        return plan, plan.calls

    def ended(self, pod: SimPod, run: Run, error: BaseException | None) -> None:
        self.trace(lambda: f"{pod.label} ran {run.job.key.hex()[:8]}: {type(error).__name__}")
        self.checker.ended(pod, run, error)

    # What happens.

    def run(self) -> Outcome:
        """The whole run."""
        profile = self.profile
        try:
            with replaced(self):
                for number in range(profile.pods):
                    self.start(f"pod-{number}")
                self._every("publisher", self._publish)
                self._every("amqp", self._pump)
                self._every("faults", Faults(self).step, profile.pause)
                self._every("kafka", self._watch_groups, 1.0)
                if profile.operates:
                    self._every("operator", self._operate, 5.0)
                self.advance(self.now + profile.seconds)
                self._drain()
                self.checker.finish(self.published)
        finally:
            for pod in self.living():
                pod._gone()
            self._operator.close()
            self._raw.close()
        checker = self.checker
        return Outcome(
            self.seed,
            checker.violations,
            self.landed_kinds,
            len(self.published),
            checker.acks,
            checker.jobs,
            self.starts_made,
            checker.rescues,
            checker.worst_rescue,
            self.now - 100.0,
            self._digest.hexdigest(),
            checker.terms.reached,
        )

    def _publish(self) -> float:
        if self.traffic.count >= self.profile.messages:
            return NEVER
        for _ in range(self.random.choice((1, 1, 3, 8))):
            self._send(self.traffic.next())
        return self.random.random() * 2 * self.profile.seconds * 0.8 * 3 / self.profile.messages

    def _send(self, one: Published) -> None:
        kind = one.source
        if kind == "local":
            # A body stands for its message there: copies are told apart by nothing else.
            if (kind, one.body) not in self.local:
                self.local[kind, one.body] = one
                correlation = None if one.correlation is None else one.correlation.encode()
                headers = tuple((name, value.encode()) for name, value in one.headers.items())
                stored = envelope(Message(one.body, headers, correlation))
                self._operator.publish("local", [(stored, one.body)])
                self.published.append(one)
            return
        self.published.append(one)
        self._put(one)

    def _put(self, one: Published) -> None:
        """Into its broker."""
        kind = one.source
        if kind in ("events", "facts"):
            self.kafka.publish(kind, one)
        elif kind == "notes":
            for number in range(self.profile.pods):
                copy = Published(one.source, one.namespace, one.correlation, one.body, one.is_good, one.headers)
                self.amqp.queue(f"notes.pod-{number}").ready.append(copy)
        else:
            self.amqp.queue(kind).ready.append(one)

    def relay(self, source: str, messages: Sequence[Message], broker: AmqpBroker | KafkaCluster) -> None:
        """A pod sends what handlers published, and waits for the broker's confirm, which may be lost."""
        pod = self._acting
        assert pod is not None
        if broker.is_down:
            raise PublishError("connection refused")
        for one in messages:
            pod.ack_point("before")
            sent = self.traffic.sent[source, one.body]
            if one.correlation is None or sent.correlation != one.correlation.decode():
                self.checker.violated("outbox", f"{pod.label} sent {one.correlation!r} for {sent.correlation}")
            self._put(replace(sent))
            pod.ack_point("after")
        if pod.loses_ack():
            raise PublishError("the confirms were lost")
        self.relayed.update((source, one.body) for one in messages)

    def _pump(self) -> float:
        self.amqp.drop_silent(self.now)
        if not self.amqp.is_down:
            self.amqp.pump(self.random.choice)
        return 0.05 if any(queue.ready for queue in self.amqp.queues.values()) else 0.25

    def _watch_groups(self) -> float:
        self.kafka.put_out_silent(self.now, KAFKA_PATIENCE)
        for pod in self.living():
            if pod.executors.exhausted.is_set() and not pod.draining:
                pod.stop()
        return 1.0

    def _operate(self) -> float:
        """An operator requeues and deletes at random."""
        rows = self._raw.execute("SELECT id FROM jobbridge_jobs ORDER BY id").fetchall()
        if rows and self.faulty:
            key = self.random.choice(rows)[0]
            act = self._operator.requeue if self.random.random() < 0.6 else self._operator.delete
            done = act(key)
            self.trace(lambda: f"operator {act.__name__} {key.hex()[:8]}: {done.name}")
        return self.random.uniform(0.5, 8.0)

    def _drain(self) -> None:
        self.trace(lambda: "DRAIN")
        self.disturbed()
        self.faulty = False
        self.store_down_until = 0.0
        self.amqp.is_down = self.kafka.is_down = False
        for pod in self.living():
            pod.cut_until = 0.0
            pod.frozen_until = min(pod.frozen_until, self.now)
        until = self.now + DRAIN
        left = self._left()
        while left and self.now < until:
            self.advance(self.now + 0.5)
            left = self._left()
        if left:
            self.checker.violated("I17", f"after {DRAIN:g} s: {left}")

    def _left(self) -> str:
        """What is not done yet."""
        if self._returning:
            return f"{self._returning} pods are to come back"
        if self.traffic.count < self.profile.messages:
            return "messages are to be published"
        if rest := self.amqp.rest():
            return f"{rest} messages in AMQP queues"
        if lag := self.kafka.lag():
            return f"a lag of {lag}"
        if waiting := self._raw.execute("SELECT count(*) FROM jobbridge_messages").fetchone()[0]:
            return f"{waiting} messages in the local queue"
        unfinished = self.checker.unfinished()
        return f"jobs: {unfinished}" if unfinished else ""


@contextlib.contextmanager
def replaced(world: World) -> Iterator[None]:
    """What of the brokers' clients can't be handed in."""

    def to_amqp(_: Broker, section: AmqpSourceSection, batch: Sequence[Message]) -> None:
        world.relay(section.queue, batch, world.amqp)

    def to_kafka(_: Broker, section: KafkaSourceSection, batch: Sequence[Message]) -> None:
        world.relay(section.topic[0], batch, world.kafka)

    with (
        mock.patch.object(publish, "publish_amqp", to_amqp),
        mock.patch.object(publish, "publish_kafka", to_kafka),
        mock.patch.object(amqp_session, "IOLoop", Loop),
        mock.patch.object(kafka_session, "ensure_topics", lambda _, section: {section.topic[0]: PARTITIONS}),
    ):
        yield


def simulate(
    seed: int,
    driver: Driver,
    template: bytes,
    directory: Path,
    tell: Callable[[str], object] | None = None,
    shape: Callable[[Profile], object] = lambda profile: None,
) -> Outcome:
    """One run, on a copy of the template database.

    :param tell: given each line of the trace.
    :param shape: may change what kind of run it is.
    """
    path = directory / f"{seed}.db"
    path.write_bytes(template)
    try:
        return World(seed, driver, path, tell, shape).run()
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
