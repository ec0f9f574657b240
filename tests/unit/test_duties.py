"""The maintenance loop: what every server does once, and what the master alone does."""

from typing import cast

import pytest

from scheduler.maintenance.duties import Duties
from scheduler.membership import Membership
from scheduler.storage import StoreUnavailable


class Member:
    """What the loop looks at."""

    interval = 1.0
    rounds = 0
    is_master = False
    registered = False

    def registration(self) -> object:
        return True if self.registered else None


class Counted:
    """A duty that counts its rounds."""

    rounds = 0

    def step(self) -> float:
        self.rounds += 1
        return 10.0


def test_what_stands_at_the_start_is_done_once_by_every_server_when_the_store_answers() -> None:
    """Not before it is registered; an outage delays it, another error does not hold up the duties."""
    member, duty, calls = Member(), Counted(), []

    def declare() -> None:
        calls.append(len(calls))
        if len(calls) <= 2:
            raise StoreUnavailable("away")
        raise ValueError("a fault of ours")

    duties = Duties(cast(Membership, member), [duty], [], lambda: 0.0, [declare])
    assert (duties.step(), calls) == (1.0, [])
    member.registered = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            duties.step()
    with pytest.raises(ValueError, match="ours"):
        duties.step()
    assert (duties.step(), len(calls), duty.rounds) == (1.0, 3, 0)
    member.is_master = True
    assert (duties.step(), len(calls), duty.rounds) == (10.0, 3, 1)
