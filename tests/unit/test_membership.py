"""Who is held for dead, who leads, and who may go on."""

from random import Random
from typing import cast

import pytest

from scheduler.inflight import Registration
from scheduler.membership import Membership, Watch
from scheduler.storage import Storage, StoreUnavailable
from scheduler.storage.records import ServerRow

INTERVAL = 15.0
ME, A, B = (bytes([k]) * 16 for k in (1, 2, 3))


class World:
    """A database's clock, a monotonic one, and servers that beat or don't, as one watcher sees them."""

    def __init__(self, intervals: dict[bytes, float], mine: float = INTERVAL) -> None:
        self.mine = mine
        self.now = 100.0
        self.jump = 0.0
        """How far the database's clock has been put forward."""
        self.intervals = intervals
        self.beats = dict.fromkeys(intervals, 0)
        self.last = dict.fromkeys(intervals, self.now)
        self.alive = set(intervals)
        self.watch = Watch(mine)

    def pass_time(self, seconds: float) -> None:
        """Let the time pass; the living beat when it is their turn, by their own clocks."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 1.0)
            for server in self.alive:
                due = 100.0 + (self.beats[server] + 1) * self.intervals[server]
                if self.now >= due:
                    self.beats[server] += 1
                    self.last[server] = self.now + self.jump

    def round(self) -> set[bytes]:
        """One round of the watcher; whom it holds for dead."""
        rows = [
            ServerRow(
                number,
                server,
                "h",
                1,
                self.beats[server],
                int(self.intervals[server] * 1e6),
                0,
                0,
                "{}",
                int((self.now + self.jump - self.last[server]) * 1e6),
            )
            for number, server in enumerate(self.intervals)
        ]
        return self.watch.round(rows, self.now)

    def rounds(self, number: int) -> list[set[bytes]]:
        """So many rounds, one interval after the other."""
        told = []
        for _ in range(number):
            self.pass_time(self.mine)
            told.append(self.round())
        return told


def test_the_living_are_never_held_for_dead() -> None:
    """Through many rounds."""
    assert World({A: INTERVAL, B: INTERVAL}).rounds(50) == [set()] * 50


def test_a_dead_server_is_found_within_the_timeout_and_one_round() -> None:
    """And not before the timeout."""
    world = World({A: INTERVAL, B: INTERVAL})
    world.rounds(3)
    world.alive.remove(A)
    told = world.rounds(6)
    assert told[:3] == [set()] * 3
    assert told[5] == {A}
    assert told.index({A}) <= 4


def test_an_outage_of_twice_the_timeout_fences_nobody() -> None:
    """Nobody could beat; whoever is back first sees all the others stale, and waits for two rounds of its own."""
    for late in (1.0, 5.0, 14.0):
        world = World({A: INTERVAL, B: INTERVAL})
        world.rounds(5)
        alive, world.alive = world.alive, set()
        world.pass_time(8 * INTERVAL)
        assert world.round() == set()  # I am back, the others not yet
        world.pass_time(late)
        assert world.round() == set()
        world.alive = alive
        for server in alive:
            world.beats[server] = int((world.now - 100.0) / INTERVAL)
        assert world.rounds(10) == [set()] * 10


def test_a_late_round_forgets_what_was_watched() -> None:
    """My own stall is not the others' silence: counting begins anew."""
    world = World({A: INTERVAL})
    world.rounds(3)
    world.alive.clear()
    world.rounds(1)
    world.pass_time(10 * INTERVAL)
    assert world.round() == set()
    assert world.rounds(1) == [set()]
    assert world.rounds(1) == [{A}]  # two punctual rounds, and far older than the timeout


def test_a_dead_server_that_is_met_at_the_start_is_found_after_two_rounds() -> None:
    """Its row is old by the database's clock; two rounds of mine prove that it stands still."""
    world = World({A: INTERVAL})
    world.alive.clear()
    world.pass_time(100 * INTERVAL)
    assert world.rounds(3) == [set(), set(), {A}]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_of_the_databases_clock_fences_nobody(jump: float) -> None:
    """Forward, the beats look old for a moment; backward, they lie in the future."""
    world = World({A: INTERVAL, B: INTERVAL})
    world.rounds(3)
    world.jump = jump
    assert world.rounds(20) == [set()] * 20


def test_a_backward_jump_does_not_hide_the_dead() -> None:
    """What stood still for the whole timeout by my clock is dead, whatever the database's clock says."""
    world = World({A: INTERVAL, B: INTERVAL})
    world.rounds(3)
    world.alive.remove(A)
    world.jump = -3600.0
    told = world.rounds(6)
    assert told[:3] == [set()] * 3
    assert told[5] == {A}


@pytest.mark.parametrize("other", [1.0, 5.0, 60.0, 300.0])
def test_servers_are_judged_by_their_own_interval(other: float) -> None:
    """A slow one is left alone between its beats, a dead one found within its own timeout and some rounds of mine."""
    world = World({A: other, B: INTERVAL})
    assert world.rounds(100) == [set()] * 100
    world.alive.remove(A)
    last = world.last[A]
    while not world.rounds(1)[0]:
        pass
    assert 3 * other <= world.now - last <= 4 * other + 4 * INTERVAL


@pytest.mark.parametrize("other", [20.0, 60.0, 300.0])
def test_a_jump_fences_no_server_that_beats_more_slowly_than_i_do(other: float) -> None:
    """Its beat stands still for many rounds of mine, and that is its right."""
    world = World({A: other})
    world.rounds(30)
    world.jump = 1e6
    assert world.rounds(60) == [set()] * 60


class Store:
    """The servers table, in memory."""

    def __init__(self) -> None:
        self.rows: dict[bytes, ServerRow] = {}
        self.numbers = 0
        self.fails: set[str] = set()

    def _maybe_fail(self, verb: str) -> None:
        if verb in self.fails:
            self.fails.remove(verb)
            raise StoreUnavailable(verb)

    def register(self, server: bytes, *, host: str, pid: int, interval_us: int, status: str) -> int:
        if server not in self.rows:
            self.numbers += 1
            self.rows[server] = ServerRow(self.numbers, server, host, pid, 0, interval_us, 0, 0, status, 0)
        self._maybe_fail("register")
        return self.rows[server].number

    def beat(self, server: bytes, status: str) -> bool:
        self._maybe_fail("beat")
        if server in self.rows:
            self.rows[server] = self.rows[server]._replace(beat=self.rows[server].beat + 1, status=status)
        return server in self.rows

    def servers(self) -> list[ServerRow]:
        self._maybe_fail("servers")
        return sorted(self.rows.values())

    def unregister(self, server: bytes) -> None:
        self.rows.pop(server, None)


class Member:
    """A membership on a store and a clock of the test."""

    def __init__(self, store: Store, seed: int = 1) -> None:
        self.now = 0.0
        self.fenced: list[Registration] = []
        self.registered: list[Registration] = []
        self.beats = 0
        self.membership = Membership(
            cast(Storage, store),
            interval=INTERVAL,
            status=lambda: "{}",
            on_beat=self._beaten,
            on_fenced=self.fenced.append,
            random=Random(seed),
            monotonic=lambda: self.now,
        )
        self.membership.on_registered = self.registered.append

    def _beaten(self) -> None:
        self.beats += 1

    def rounds(self, number: int, *others: "Member") -> None:
        """So many rounds of this one and of the others, each an interval after the last."""
        for _ in range(number):
            for one in (self, *others):
                one.now += INTERVAL
                one.membership.step()


def test_the_longest_running_live_server_leads() -> None:
    """The lowest number; when it dies the next takes over, and a newcomer takes nothing."""
    store = Store()
    first, second, third = (Member(store, seed) for seed in range(3))
    first.rounds(2, second, third)
    assert [one.membership.is_master for one in (first, second, third)] == [True, False, False]
    second.rounds(4, third)
    assert (second.membership.is_master, third.membership.is_master) == (True, False)
    assert [row.number for row in second.membership.silent] == [1]
    first.rounds(1)
    second.rounds(1, third)
    assert (second.membership.is_master, list(second.membership.silent)) == (False, [])


def test_a_server_that_leaves_hands_over_at_once() -> None:
    """Its row is gone; its registration ends, and nothing starts under it."""
    store = Store()
    first, second = Member(store, 1), Member(store, 2)
    first.rounds(1, second)
    registration = first.membership.registration()
    first.membership.leave()
    assert registration is not None
    assert not first.membership.trusts(registration)
    assert first.membership.registration() is None
    second.rounds(1)
    assert second.membership.is_master
    first.membership.leave()


def test_a_lost_reply_to_the_registration_leaves_one_row() -> None:
    """The same id is offered again."""
    store = Store()
    member = Member(store)
    store.fails.add("register")
    with pytest.raises(StoreUnavailable):
        member.membership.step()
    assert member.membership.registration() is None
    member.rounds(1)
    assert (len(store.rows), [one.number for one in member.registered]) == (1, [1])


def test_a_failed_round_is_no_round() -> None:
    """Neither trust nor the count of rounds moves; what was watched stays until the round is late."""
    store = Store()
    member = Member(store)
    member.rounds(1)
    for verb in ("beat", "servers"):
        store.fails.add(verb)
        with pytest.raises(StoreUnavailable):
            member.membership.step()
    assert (member.membership.rounds, member.beats) == (1, 1)
    member.now = INTERVAL + 3.5 * INTERVAL
    assert member.membership.registration() is None
    member.rounds(1)
    assert member.membership.registration() is member.registered[0]


def test_a_fenced_server_ends_its_registration_before_it_registers_anew() -> None:
    """With another id and a higher number; the old one is trusted no more, whatever the time."""
    store = Store()
    member = Member(store)
    member.rounds(1)
    (old,) = member.registered
    store.unregister(old.id)
    member.rounds(1)
    new = member.registered[-1]
    assert member.fenced == [old]
    assert (old.current, new.current, new.id != old.id, new.number > old.number) == (False, True, True, True)
    assert (member.membership.trusts(old), member.membership.trusts(new)) == (False, True)


def test_a_fence_whose_new_registration_fails_is_still_a_fence() -> None:
    """Told once; nothing starts until the new one is in."""
    store = Store()
    member = Member(store)
    member.rounds(1)
    store.unregister(member.registered[0].id)
    store.fails.add("register")
    with pytest.raises(StoreUnavailable):
        member.membership.step()
    assert (len(member.fenced), member.membership.registration()) == (1, None)
    member.rounds(1)
    assert (len(member.fenced), len(member.registered), len(store.rows)) == (1, 2, 1)


def test_two_servers_never_share_an_id() -> None:
    """It is random, and new at each registration."""
    store = Store()
    members = [Member(store, seed) for seed in range(20)]
    for member in members:
        member.rounds(1)
        store.unregister(member.registered[-1].id)
        member.rounds(1)
    ids = {one.id for member in members for one in member.registered}
    assert len(ids) == 40
