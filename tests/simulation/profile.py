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

    def configuration(self) -> dict[str, object]:
        """As the file would write it."""
        sections: dict[str, dict[str, object]] = {
            "orders": {"broker": "rabbit", "queue": "orders", "prefetch": 20},
            "events": {"broker": "kafka", "topic": "events", "group": "events"},
            "notes": {"broker": "rabbit", "queue": "notes", "exchange": "notes", "delivery": "every-pod"},
            "facts": {"broker": "kafka", "topic": "facts", "group": "facts", "delivery": "every-pod"},
            "local": {"queue": "local"},
        }
        backoff = {"base": "300ms", "factor": 2.0, "max": "2s"}
        return {
            "store": {"url": "sqlite:///simulated.db", "migrate": "check"},
            "brokers": {"rabbit": "amqp://rabbit/", "kafka": "kafka://kafka:9092"},
            "sources": {name: sections[name] | {"batch": {"max": 10}} for name in self.sources},
            "routes": [
                {
                    "name": name,
                    "from": name,
                    "handler": "tests.simulation.handlers:handle",
                    "retries": 3,
                    "timeout": "16s",
                    "backoff": backoff,
                    "dedupe": {"window": f"{self.window}s"},
                }
                for name in self.sources
            ],
            "pod": {"name": "pod", "workers": self.workers, "heartbeat": f"{self.heartbeat}s"},
        }
