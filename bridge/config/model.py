"""The configuration as a frozen tree. Shape only: what refers to what is checked in `load.py`.

Durations are seconds as float, sizes bytes as int, whatever unit the file used.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def duration(value: object) -> float:
    """`500ms`, `30s`, `5m`, `12h`, `7d` in seconds.

    :raises ValueError: for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value.strip()) if isinstance(value, str) else None
    if match is None:
        if value == 0:
            return 0.0
        raise ValueError("not a duration: write a number and a unit of ms, s, m, h or d, such as 30s")
    return float(match[1]) * _DURATION[match[2]]


def size(value: object) -> int:
    """`64KiB`, `1MiB`, `1GiB` or a number of bytes, in bytes.

    :raises ValueError: for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"(\d+)\s*(|B|KiB|MiB|GiB)", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a size: write a number and a unit of KiB, MiB or GiB, such as 1MiB")
    return int(match[1]) * _SIZE[match[2]]


Duration = Annotated[float, BeforeValidator(duration)]
Size = Annotated[int, BeforeValidator(size)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Tls(Section):
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False


class Sasl(Section):
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str
    password: SecretStr


class Broker(Section):
    url: str
    username: str | None = None
    password: SecretStr | None = None
    tls: Tls | None = None
    sasl: Sasl | None = None


class BatchBounds(Section):
    max: int = Field(500, ge=1, le=10_000)
    max_bytes: Size = 4 * 1024**2
    linger: Duration = 0.0


class SourceSection(Section):
    """What all sources have."""

    broker: str | None = None
    batch: BatchBounds = BatchBounds()
    max_message_bytes: Size = 1024**2
    otherwise: Literal["dead-letter", "ignore"] = "dead-letter"


class LocalSourceSection(SourceSection):
    queue: str
    delivery: Literal["shared"] = "shared"


class AmqpSourceSection(SourceSection):
    broker: str
    queue: str
    delivery: Literal["shared", "every-pod"] = "shared"
    exchange: str | None = None
    routing_keys: tuple[str, ...] | None = None
    """None: `["#"]` for a topic exchange, `[<queue>]` for a direct one."""
    exchange_type: Literal["topic", "direct", "fanout", "headers"] = "topic"
    queue_type: Literal["quorum", "classic"] = "quorum"
    dead_letter_exchange: str | None = None
    prefetch: int = Field(2000, ge=1, le=65_535)
    declare: bool = True


class KafkaSourceSection(SourceSection):
    broker: str
    topic: tuple[str, ...]
    """Names, or one `pattern:REGEX`."""
    group: str = "jobbridge"
    delivery: Literal["shared", "every-pod"] = "shared"
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    assignor: Literal["cooperative-sticky", "range", "roundrobin"] = "cooperative-sticky"
    partitions: int | None = Field(None, ge=1)
    """Given: create missing topics with so many partitions."""
    declare: bool | None = None
