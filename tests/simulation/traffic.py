"""What is published, and what its handler is to do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random

from scheduler.job import Job


@dataclass(eq=False, slots=True)
class Published:
    """One message in a broker. The broker knows it by its identity."""

    source: str
    namespace: str
    correlation: str | None
    body: bytes
    is_good: bool
    """It can become a job."""
    headers: dict[str, str] = field(default_factory=dict)
    delivered: int = 0
    settled: bool = False

    @property
    def key(self) -> tuple[str, bytes]:
        assert self.correlation is not None
        return self.namespace, self.correlation.encode()


@dataclass(slots=True)
class Plan:
    """What the runs of one job do, one after the other."""

    failures: int = 0
    """So many runs fail before one succeeds."""
    seconds: float = 0.0
    hangs: bool = False
    """The first run takes longer than its timeout."""
    kills: bool = False
    """Each run ends its pod."""
    obeys: bool = True
    """Ends early when it is cancelled."""
    publishes: str = ""
    """The source to which each run publishes a message."""
    broken: int = 0
    """So many runs failed by a statement of their own that did."""
    calls: int = field(default=0)


class Traffic:
    """Makes messages: good ones, copies, conflicts, and such that can't become jobs."""

    def __init__(self, random: Random, sources: list[str], terms: list[str], *, kills: bool) -> None:
        self._random = random
        self._sources = sources
        self._terms = terms
        self._kills = kills
        self._good: list[Published] = []
        self.plans: dict[tuple[str, bytes], Plan] = {}
        self.bodies: dict[tuple[str, bytes], set[bytes]] = {}
        self.terms: dict[tuple[str, bytes], str] = {}
        """By message: what its route asks for."""
        self.sent: dict[tuple[str, bytes], Published] = {}
        """By source and body: the messages that handlers publish, if their jobs succeed."""
        self.parents: dict[tuple[str, bytes], bytes] = {}
        """By message: the job that publishes it."""
        self.count = 0

    def next(self) -> Published:
        """One more message."""
        random = self._random
        self.count += 1
        source = random.choice(self._sources)
        kind = random.random()
        if kind < 0.25 and self._good:
            again = random.choice(self._good)
            body = again.body if random.random() < 0.8 else json.dumps({"other": self.count}).encode()
            return self._made(again.source, again.correlation, body, again.headers)
        if kind < 0.29:
            return Published(source, source, f"bad-{self.count}", b"{", False)
        if kind < 0.31:
            return Published(source, source, None, json.dumps({"nameless": self.count}).encode(), False)
        term = random.choice(self._terms) if random.random() < 0.5 else ""
        headers = {"term": term} if term else {}
        if term == "locked":
            headers["lock"] = random.choice(("red", "blue"))
        made = self._made(source, f"{source}-{self.count}", json.dumps({"n": self.count}).encode(), headers)
        self._good.append(made)
        plan = self.plans[made.key] = self._plan()
        self.terms[made.key] = term
        if term == "publishing":
            plan.publishes = random.choice(self._sources)
        return made

    def publishing(self, job: Job) -> bytes:
        """A handler publishes: the body of its message."""
        source = self.plans[job.namespace, job.correlation_bytes].publishes
        sent = self._made(source, str(job.id), json.dumps({"after": str(job.id)}).encode(), {})
        self.sent[source, sent.body] = sent
        self.parents[sent.key] = job.key
        return sent.body

    def plan(self, namespace: str, correlation: bytes) -> Plan:
        """Of a job; that of a tick, or of what a handler published, is to succeed at once."""
        return self.plans.setdefault((namespace, correlation), Plan())

    def _made(self, source: str, correlation: str | None, body: bytes, headers: dict[str, str]) -> Published:
        made = Published(source, source, correlation, body, True, headers)
        self.bodies.setdefault(made.key, set()).add(body)
        return made

    def _plan(self) -> Plan:
        random = self._random
        kind = random.random()
        plan = Plan(seconds=random.choice((0.0, 0.01, 0.3, 2.0)) * random.random(), obeys=random.random() < 0.7)
        if kind < 0.12:
            plan.failures = random.choice((1, 1, 2, 9))
        elif kind < 0.16:
            plan.seconds = random.uniform(3.0, 15.0)
        elif kind < 0.18:
            plan.hangs = True
        elif kind < 0.195 and self._kills:
            plan.kills = True
        return plan
