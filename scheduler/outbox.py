"""Messages that leave with a job's success: what `JobContext.publish` makes of them.

Promises: a message is a row that is written in the commit of its job's success, so it leaves if and only if the job
succeeded. Pods relay the rows, with the broker's confirm, at least once; under the same message ID each time.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

PREFIX = "outbox/"
"""Before the name of its source, the queue in the store of a message that has to leave through a broker."""


class Leaving(NamedTuple):
    """A message of a job that runs."""

    queue: str
    """Of the local queue's table: a source's own, or its outbox."""
    envelope: str
    """All but the body, as JSON, in the form of the local queue."""
    body: bytes


def envelope(
    message_id: str,
    correlation_id: str,
    headers: Mapping[str, str],
    *,
    type: str | None,
    key: str | None,
    routing_key: str | None,
) -> str:
    """What the local queue keeps of a message but its body."""
    fields = {
        "headers": [[name, value] for name, value in headers.items()],
        "correlation": correlation_id,
        "message_id": message_id,
        "type": type,
        "key": key,
        "routing_key": routing_key,
    }
    return json.dumps({name: value for name, value in fields.items() if value})
