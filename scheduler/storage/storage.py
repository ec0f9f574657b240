"""The store: the verbs, and what each database must keep to.

The contract, which one conformance suite checks on every database:

- A verb is a domain act on a batch and answers what happened; no verb raises for a lost race.
- Every write to a job's row carries its guard: finish and retry (id, version, owner); claim and promote the state,
  under lock; rescue (owner, PROCESSING); purge finished and due; an operator's act (id, version). Each adds one to the
  version (I7).
- One verb is one autocommitted statement wherever the database allows; what needs two opens a transaction that waits
  for nobody. `StoreUnavailable` means: its fate is unknown, do it again; each verb may be done twice.
- Times are the database's own clock.
"""

from scheduler.storage.acts import Acts
from scheduler.storage.cluster import Cluster
from scheduler.storage.counters import Counters
from scheduler.storage.database import Options
from scheduler.storage.execution import Execution
from scheduler.storage.intake import Intake
from scheduler.storage.local_queue import LocalQueue
from scheduler.storage.pages import Pages
from scheduler.storage.pauses import Pauses
from scheduler.storage.recurring import RecurringJobs
from scheduler.storage.schema import Schema
from scheduler.storage.upkeep import Upkeep

__all__ = ["Options", "Storage"]


class Storage(Schema, RecurringJobs, Intake, Execution, Upkeep, Cluster, LocalQueue, Pages, Acts, Pauses, Counters):
    """All verbs. One file for each group of them; one subclass for each database."""
