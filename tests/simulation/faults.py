"""What goes wrong once in a while. What goes wrong at a statement or an ack is `World.strikes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.pods import NEVER, Actor, SimPod

if TYPE_CHECKING:
    from tests.simulation.world import World

LASTS = (0.5, 2.0, 4.0, 8.0)
"""Heartbeat intervals; a server is held for dead after four."""


class Faults:
    """One run's, as an actor."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._on_a_pod = {
            "crash": lambda pod: pod.crash("killed"),
            "freeze": self._freeze,
            "cut": lambda pod: pod.cut(self._seconds()),
            "stop": lambda pod: pod.stop(),
        }
        self._on_all = {
            "crash of all": self._crash_all,
            "outage": self._store_outage,
            "clock jump": self._jump,
            "amqp drop": self._drop,
            "amqp outage": lambda: self._break("amqp"),
            "kafka outage": lambda: self._break("kafka"),
            "rebalance": self._rebalance,
        }

    def step(self) -> float:
        """One of the kinds that this run has; seconds until the next."""
        world = self._world
        if world.faulty and world.profile.kinds:
            kinds = world.profile.kinds
            kind = world.random.choice(kinds) if world.landed_kinds else kinds[0]
            able = [pod for pod in world.living() if pod.frozen_since is None and not pod.draining]
            if kind in self._on_all:
                self._on_all[kind]()
            elif able:
                self._on_a_pod[kind](world.random.choice(able))
        return world.random.uniform(0.2, 2.0) * world.profile.pause

    def _seconds(self) -> float:
        random = self._world.random
        return random.choice(LASTS) * self._world.profile.heartbeat * random.uniform(0.5, 1.5)

    def _freeze(self, pod: SimPod) -> None:
        pod.freeze(self._seconds(), "freeze")

    def _crash_all(self) -> None:
        for pod in self._world.living():
            pod.crash("all are killed")

    def _store_outage(self) -> None:
        world, seconds = self._world, self._seconds()
        world.store_down_until = world.now + seconds
        world.landed("outage", f"{seconds:.1f} s", world.store_down_until)

    def _jump(self) -> None:
        random = self._world.random
        seconds = random.choice((-1, 1)) * random.uniform(1.0, 40.0)
        self._world.clock_is_off += seconds
        self._world.landed("clock jump", f"of {seconds:.1f} s")

    def _drop(self) -> None:
        links = [link for link in self._world.amqp.links if link.is_open]
        if links:
            self._world.random.choice(links).drop()
            self._world.landed("amqp drop")

    def _rebalance(self) -> None:
        for group in self._world.kafka.groups.values():
            if group.members:
                group.balance()
                self._world.landed("rebalance")

    def _break(self, which: str) -> None:
        world, seconds = self._world, self._seconds()
        broker = world.amqp if which == "amqp" else world.kafka
        broker.is_down = True
        for link in world.amqp.links if which == "amqp" else ():
            link.drop()
        world.landed(f"{which} outage", f"{seconds:.1f} s")

        def step() -> float:
            broker.is_down = False
            world.actors.remove(actor)
            return NEVER

        actor = Actor(f"{which} is back", step, world.now + seconds, None, None)
        world.actors.append(actor)
