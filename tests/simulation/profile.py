"""What kind of run a seed is: how many pods, which sources, which faults and how often.

Each fault is in about half of the runs: one that is everywhere hides what another would show.
"""

from __future__ import annotations

from random import Random

STATEMENT_FAULTS = {
    "crash before a statement": 0.003,
    "crash after a statement": 0.003,
    "failed call": 0.02,
    "lost reply": 0.02,
    "contended": 0.02,
    "crash before an ack": 0.05,
    "crash after an ack": 0.05,
    "lost ack": 0.1,
    "freeze in a call": 0.004,
    "slow call": 0.004,
}
"""The highest chance of each, at each statement or ack."""

KINDS = (
    "crash",
    "crash",
    "crash of all",
    "freeze",
    "cut",
    "stop",
    "outage",
    "clock jump",
    "amqp drop",
    "amqp outage",
    "kafka outage",
    "rebalance",
)
"""What happens once in a while."""

ALWAYS = ("crash", "freeze", "outage")
"""Each run has one of these at least: one in which nothing goes wrong shows nothing."""

SOURCES = ("orders", "events", "notes", "facts", "local")
"""AMQP shared, Kafka shared, AMQP to every pod, Kafka to every pod, the local queue."""


TERMS = ("locked", "limited", "delayed", "expiring", "transactional", "publishing")
"""What a route may ask for besides: a message's header says which of its source's routes it takes."""

CONCURRENCY = 2
DELAY = 2.0
EXPIRES = 1.0
EVERY = 4.0
"""Seconds between the ticks of the recurring job."""
TIMEOUT = 16.0


HANDLER = "tests.simulation.handlers:handle"


class Profile:
    """One seed's."""

    def __init__(self, random: Random) -> None:
        self.pods = random.choice((1, 2, 2, 3, 3, 4))
        self.workers = random.choice((2, 2, 4))
        self.heartbeat = random.choice((2.0, 2.0, 3.0))
        self.seconds = random.uniform(12.0, 32.0)
        self.messages = random.choice((10, 25, 40))
        self.sources = random.sample(SOURCES, random.choice((1, 1, 2)))
        self.window = random.choice((7 * 86400.0, 7 * 86400.0, 5.0))
        self.kills = random.random() < 0.3
        self.operates = random.random() < 0.25
        self.pause = random.choice((3.0, 6.0, 10.0))
        """About so long between two faults."""
        self.interleaving = random.choice((0.02, 0.1, 0.3))
        self.rates = {
            kind: most * random.choice((0.2, 1.0)) for kind, most in STATEMENT_FAULTS.items() if random.random() < 0.4
        }
        self.kinds = [random.choice(ALWAYS), *(kind for kind in KINDS if random.random() < 0.5)]
        self.terms = random.sample(TERMS, random.choice((1, 2, 3)))
        self.ticks = random.random() < 0.35

    def configuration(self) -> dict[str, object]:
        """As the file would write it."""
        sections: dict[str, dict[str, object]] = {
            "orders": {"broker": "rabbit", "queue": "orders", "prefetch": 20},
            "events": {"broker": "kafka", "topic": "events", "group": "events"},
            "notes": {"broker": "rabbit", "queue": "notes", "exchange": "notes", "delivery": "every-pod"},
            "facts": {"broker": "kafka", "topic": "facts", "group": "facts", "delivery": "every-pod"},
            "local": {"queue": "local"},
        }
        tick = {"every": f"{EVERY}s", "handler": HANDLER, "overlap": "allow", "misfire_grace": "10s"}
        return {
            "store": {"url": "sqlite:///simulated.db", "migrate": "check"},
            "brokers": {"rabbit": "amqp://rabbit/", "kafka": "kafka://kafka:9092"},
            "sources": {name: sections[name] | {"batch": {"max": 10}} for name in self.sources},
            "routes": [self._route(name, term) for name in self.sources for term in (*self.terms, "")],
            "recurring": {"tick": tick} if self.ticks else {},
            "pod": {"name": "pod", "workers": self.workers, "heartbeat": f"{self.heartbeat}s"},
        }

    def _route(self, source: str, term: str) -> dict[str, object]:
        asked: dict[str, dict[str, object]] = {
            "locked": {"lock": "header:lock"},
            "limited": {"concurrency": CONCURRENCY},
            "delayed": {"delay": f"{DELAY}s"},
            "expiring": {"expires": f"{EXPIRES}s"},
            "transactional": {"handler": "tests.simulation.handlers:transact"},
        }
        route: dict[str, object] = {
            "name": f"{source} {term}".strip(),
            "from": source,
            "when": {"header:term": term} if term else {},
            "handler": HANDLER,
            "retries": 3,
            "timeout": f"{TIMEOUT}s",
            "backoff": {"base": "300ms", "factor": 2.0, "max": "2s"},
            "dedupe": {"window": f"{self.window}s", "namespace": source},
        }
        return route | asked.get(term, {})
