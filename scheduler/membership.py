"""Who is there, who leads, and whether this process may still trust that it is there itself.

One loop on its own thread and its own connection: beat, read all servers, judge. The master is the live server with
the lowest number, the longest running: no ties, no clock. Election saves work; safety is the guards' (I13).

Promises: a job starts only until the last good beat's start + timeout - half an interval, by the monotonic clock
(I10); a live pod is not held for dead after an outage of the database, since a round of ours that came late forgets
all that we watched (I14).
Does not promise that there is at most one master.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from logging import getLogger
from random import Random
from typing import NamedTuple

from scheduler.inflight import Registration
from scheduler.storage.cluster import TIMEOUT_INTERVALS
from scheduler.storage.records import ServerRow
from scheduler.storage.storage import Storage

log = getLogger("jobbridge.membership")

SILENT_ROUNDS = 2


class Watched(NamedTuple):
    """A server's beat number, and since when it stands still."""

    beat: int
    since: float
    rounds: int


class Watch:
    """Judges who is dead, from what one process saw with its own clock and the database's."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._seen: dict[bytes, Watched] = {}
        self._last_round: float | None = None

    def round(self, rows: Sequence[ServerRow], now: float) -> set[bytes]:
        """One completed beat and read, at `now`; the servers that are dead."""
        if self._last_round is not None and now - self._last_round > 2 * self._interval:
            self._seen.clear()  # I was away myself: the others' silence may be my own
        self._last_round = now
        seen: dict[bytes, Watched] = {}
        dead: set[bytes] = set()
        for row in rows:
            before = self._seen.get(row.id)
            if before is None or before.beat != row.beat:
                seen[row.id] = Watched(row.beat, now, 0)
                continue
            seen[row.id] = still = before._replace(rounds=before.rounds + 1)
            timeout_us = TIMEOUT_INTERVALS * row.interval_us
            stood_us = (now - still.since) * 1e6
            # By its own interval too: the beat of a slower one rests for many rounds of mine, and a database's clock
            # that jumped forward makes it look old.
            silent = still.rounds >= SILENT_ROUNDS and stood_us > 1.5 * row.interval_us and row.age_us > timeout_us
            if silent or stood_us >= timeout_us:
                dead.add(row.id)
        self._seen = seen
        return dead


class Membership:
    """This process's place among the servers.

    :param interval: seconds between heartbeats.
    :param status: what the servers table shows of this process, as JSON; asked at each beat.
    :param on_beat: called after each completed round; wakes the loops that wait for one.
    :param on_fenced: called when others held this process for dead, with the registration that ended.
    """

    name = "heartbeat"

    def __init__(
        self,
        storage: Storage,
        *,
        interval: float,
        status: Callable[[], str],
        on_beat: Callable[[], None],
        on_fenced: Callable[[Registration], None],
        name: str = "",
        random: Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval = interval
        self.wake = threading.Event()
        self.host = name or socket.gethostname()
        self.is_master = False
        self.silent: Sequence[ServerRow] = ()
        """The servers that this process holds for dead."""
        self.registered_servers = 0
        """At the last beat, those among them."""
        self.registered = threading.Event()
        self.rounds = 0
        self.on_registered: Callable[[Registration], object] = lambda _: None
        """Called with each new registration, before it is used."""
        self._storage = storage
        self._status = status
        self._on_beat = on_beat
        self._on_fenced = on_fenced
        self._random = random or Random(os.urandom(16))
        self._monotonic = monotonic
        self._watch = Watch(interval)
        self._registration: Registration | None = None
        self._next_id = self._random.randbytes(16)
        self._trusted_until = float("-inf")
        self.database_time = 0
        """At the last beat, in microseconds since 1970."""
        self.clock_offset = 0.0
        """Seconds by which the database's clock was ahead of this machine's then; known to half a round trip."""

    @property
    def timeout(self) -> float:
        """Seconds of silence after which this server is held for dead."""
        return TIMEOUT_INTERVALS * self.interval

    def registration(self) -> Registration | None:
        """The current registration, while it may be trusted to stand."""
        registration = self._registration
        return registration if registration is not None and self._monotonic() < self._trusted_until else None

    def trusts(self, registration: Registration) -> bool:
        """Whether a job that was taken under this registration may start now."""
        return registration.current and self._monotonic() < self._trusted_until

    def step(self) -> float:
        """One round; seconds until the next."""
        started = self._monotonic()
        registration = self._registration
        if registration is None:
            registration = self._register()
        elif not self._storage.beat(registration.id, self._status()):
            log.warning("other pods held this one for dead: its jobs are theirs now, it registers anew")
            registration.current = False
            self._registration = None
            self._on_fenced(registration)
            registration = self._register()
        rows = self._storage.servers()
        self.registered_servers = len(rows)
        me = registration.id
        for row in rows:
            if row.id == me:
                self.database_time = row.last_heartbeat + row.age_us
                self.clock_offset = self.database_time / 1e6 - time.time()
        dead = self._watch.round([row for row in rows if row.id != me], self._monotonic())
        self.silent = [row for row in rows if row.id in dead]
        master = next((row.id for row in rows if row.id not in dead), None)
        if (master == me) != self.is_master:
            self.is_master = master == me
            log.info("this pod is %s", "the master now" if self.is_master else "no longer the master")
        self._trusted_until = started + self.timeout - self.interval / 2
        self.rounds += 1
        self.registered.set()
        self._on_beat()
        return max(0.0, self.interval - (self._monotonic() - started))

    def _register(self) -> Registration:
        # The id is kept until it is known to be in: a reply that was lost leaves no second row.
        number = self._storage.register(
            self._next_id,
            host=self.host,
            pid=os.getpid(),
            interval_us=int(self.interval * 1e6),
            status=self._status(),
        )
        registration = Registration(self._next_id, number)
        self.on_registered(registration)
        self._registration = registration
        self._next_id = self._random.randbytes(16)
        log.info("registered as server %d", number)
        return registration

    def leave(self) -> None:
        """Unregister: this process holds no job any more, and says so."""
        registration = self._registration
        if registration is not None:
            self._trusted_until = float("-inf")
            registration.current = False
            self._registration = None
            self._storage.unregister(registration.id)
