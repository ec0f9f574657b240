"""Where jobs are kept. `open_storage` is the way in; `storage.py` holds the contract."""

from scheduler.storage.errors import SchemaOutdated, StoreUnavailable
from scheduler.storage.opening import open_storage
from scheduler.storage.records import Act
from scheduler.storage.storage import Storage

__all__ = ["Act", "SchemaOutdated", "Storage", "StoreUnavailable", "open_storage"]
