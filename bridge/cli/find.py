"""How verbs find the jobs that a name stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bridge.cli.exits import NotFound

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Storage


def find(configuration: Configuration, storage: Storage, name: str) -> Sequence[Mapping[str, object]]:
    """The jobs, with their bodies, of this id or correlation ID.

    :raises NotFound: there is none.
    """
    from bridge.shown import namespaces

    found = storage.find_jobs(name, namespaces(configuration))
    if not found:
        raise NotFound(f"no job has the id or the correlation ID {name!r}")
    return found
