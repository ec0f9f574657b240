"""The servers table: numbers that only grow, beats that are refused once a server was struck off."""

from functools import partial

import pytest

from scheduler.storage import Storage, open_storage
from tests.conformance.stores import HOUR, RACERS, A, B, C, Racers, at_once, standing_still


def register(storage: Storage, server: bytes, interval: int = 15_000_000) -> int:
    return storage.register(server, host="host", pid=7, interval_us=interval, status="{}")


def beat_of(storage: Storage, server: bytes) -> int:
    return next(row.beat for row in storage.servers() if row.id == server)


def test_a_server_stands_as_it_registered(storage: Storage) -> None:
    """With a beat to count on from, and its start by the database's clock."""
    before = storage.clock()
    number = storage.register(A, host="hôst", pid=7, interval_us=15_000_000, status='{"busy": 0}')
    (stands,) = storage.servers()
    assert (stands.number, stands.id, stands.host, stands.pid) == (number, A, "hôst", 7)
    assert (stands.interval_us, stands.status) == (15_000_000, '{"busy": 0}')
    assert before <= stands.started_at == stands.last_heartbeat <= storage.clock()
    assert 0 <= stands.age_us < HOUR


def test_registering_again_under_one_id_is_one_registration(storage: Storage) -> None:
    """A lost reply leaves no second row and no second number."""
    assert register(storage, A) == register(storage, A)
    assert len(storage.servers()) == 1


@pytest.mark.parametrize("struck_off", [False, True], ids=["stands", "was struck off"])
def test_registering_again_shows_another_beat(storage: Storage, struck_off: bool) -> None:
    """Who saw the first try and held it for dead sees that its server lives; also where he struck it off."""
    number = register(storage, A)
    (seen,) = storage.servers()
    if struck_off:
        assert storage.remove_silent(A, seen.beat)
    again = register(storage, A)
    (stands,) = storage.servers()
    assert (stands.number, stands.beat == seen.beat) == (again, False)
    assert (again > number) is struck_off
    assert not storage.remove_silent(A, seen.beat)


def test_numbers_grow_and_are_never_given_again(storage: Storage) -> None:
    """Also where the newest server, or all of them, left."""
    numbers = [register(storage, A), register(storage, B)]
    storage.unregister(B)
    numbers.append(register(storage, C))
    for server in (A, C):
        storage.unregister(server)
    numbers.append(register(storage, B))
    assert numbers == sorted(set(numbers))
    assert [one.number for one in storage.servers()] == numbers[-1:]


def test_each_beat_counts_one_and_tells_the_status(storage: Storage) -> None:
    """The beat number moves by one, the heartbeat's time to now."""
    register(storage, A)
    register(storage, B)
    start, other = (one.beat for one in storage.servers())
    for beat in (1, 2, 3):
        assert storage.beat(A, f'{{"busy": {beat}}}')
        first, second = storage.servers()
        assert (first.beat, first.status, second.beat) == (start + beat, f'{{"busy": {beat}}}', other)
        assert first.last_heartbeat >= first.started_at


def test_a_beat_after_the_removal_is_refused(storage: Storage) -> None:
    """The server learns that others hold it for dead; the beat makes no row."""
    register(storage, A)
    assert storage.remove_silent(A, beat_of(storage, A))
    assert not storage.beat(A, "{}")
    assert not storage.beat(B, "{}")
    assert storage.servers() == []


def test_a_beat_in_between_wins_over_the_removal(storage: Storage) -> None:
    """Only the beat number that was watched is struck off."""
    register(storage, A)
    seen = beat_of(storage, A)
    assert storage.beat(A, "{}")
    assert not storage.remove_silent(A, seen)
    assert storage.beat(A, "{}")
    assert not storage.remove_silent(B, seen)
    assert storage.remove_silent(A, seen + 2)
    assert not storage.remove_silent(A, seen + 2)


def test_a_beat_that_races_with_the_removal_has_one_winner(storage: Storage) -> None:
    """Either the beat is told as good and the server stands, or it is refused and the server is gone."""
    for turn in range(30):
        server = turn.to_bytes(16, "big")
        register(storage, server)
        seen = beat_of(storage, server)
        beaten, *removed = at_once(
            [partial(storage.beat, server, "{}")] + [partial(storage.remove_silent, server, seen)] * 2
        )
        assert (beaten, sorted(removed)) in [(True, [False, False]), (False, [False, True])]
        assert [one.beat for one in storage.servers() if one.id == server] == ([seen + 1] if beaten else [])


def test_live_servers_are_those_within_their_own_timeout(storage: Storage) -> None:
    """Four of its own intervals; the master is the one of the lowest number among them."""
    now = storage.clock()
    url = storage.engine.url.render_as_string(hide_password=False)
    long_ago = open_storage(url, options=standing_still(now - HOUR))
    register(long_ago, A)
    register(long_ago, B, HOUR)
    long_ago.close()
    register(storage, C)
    assert [(row.id, master) for row, master in storage.live_servers()] == [(B, True), (C, False)]
    storage.unregister(B)
    assert [(row.id, master) for row, master in storage.live_servers()] == [(C, True)]
    storage.unregister(C)
    assert storage.live_servers() == []


def register_many(storage: Storage, place: int) -> list[int]:
    """Register, beat and leave again and again; the numbers that were given."""
    numbers = []
    for turn in range(15):
        server = bytes([place, turn]) * 8
        numbers.append(register(storage, server))
        assert storage.beat(server, "{}")
        if turn % 2:
            storage.unregister(server)
    return numbers


def test_racing_registrations_get_numbers_of_their_own(storage: Storage, racers: Racers) -> None:
    """Six processes that register and leave: no number twice, each sees its own grow."""
    told = racers.race(register_many, storage.engine.url.render_as_string(hide_password=False), range(RACERS))
    every = [number for numbers in told for number in numbers]
    assert len(set(every)) == 15 * RACERS
    assert all(numbers == sorted(numbers) for numbers in told)
    assert len(storage.servers()) == 8 * RACERS
