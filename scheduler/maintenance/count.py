"""What every server does after each heartbeat: write what it counted.

Not in the heartbeat itself, whose statements are all that keeps a server alive: whoever locks the table of counters for
a while must fence nobody.
"""

from scheduler.counts import Counts
from scheduler.membership import Membership
from scheduler.storage.counters import MINUTE_US
from scheduler.storage.storage import Storage


class Count:
    """Each call writes what is new.

    :param server: the key of its rows, the same under each registration of this process.
    """

    def __init__(self, storage: Storage, membership: Membership, counts: Counts, server: bytes) -> None:
        self._storage = storage
        self._membership = membership
        self._counts = counts
        self._server = server

    def __call__(self) -> None:
        """:raises StoreUnavailable: the next call writes it."""
        counted = self._counts.unwritten(self._membership.database_time // MINUTE_US)
        if counted:
            self._storage.record(self._server, counted)
            self._counts.written()
