"""Durations and sizes as the file writes them, and back.

Durations are seconds as float, sizes bytes as int, whatever unit the file used.
"""

import contextlib
import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from scheduler.duration import FORM, UNITS, seconds

_SIZE = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE_FORM = r"([0-9]{1,15}) ?(|B|KiB|MiB|GiB)"


def duration(value: object) -> float:
    """`500ms`, `30s`, `5m`, `12h`, `7d` in seconds. A bare 0 needs no unit.

    :raises ValueError: for anything else.
    """
    if isinstance(value, float | int) and not isinstance(value, bool) and value == 0:
        return 0.0
    with contextlib.suppress(ValueError):
        if isinstance(value, str):
            return seconds(value)
    raise PydanticCustomError(
        "bad-duration", "not a duration: write a number and a unit of ms, s, m, h or d, such as 30s"
    )


def size(value: object) -> int:
    """`64KiB`, `1MiB`, `1GiB` or a number of bytes, in bytes.

    :raises ValueError: for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(_SIZE_FORM, value.strip()) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError("bad-size", "not a size: write a number and a unit of KiB, MiB or GiB, such as 1MiB")
    return int(match[1]) * _SIZE[match[2]]


def rate(value: object) -> tuple[int, float]:
    """`100/10s`: so many within a duration, in seconds.

    :raises ValueError: for anything else.
    """
    number, slash, per = value.partition("/") if isinstance(value, str) else ("", "", "")
    if slash and number.isdecimal() and 0 < int(number) <= 1_000_000:
        with contextlib.suppress(ValueError):
            if 0.1 <= seconds(per) <= 86_400:
                return int(number), seconds(per)
    raise PydanticCustomError("bad-rate", "not a rate: write a number, a slash and 100ms to 1d, such as 100/10s")


def duration_text(length: float) -> str:
    """Seconds as the file would write them, in the largest unit that needs no fraction."""
    for unit in ("d", "h", "m", "s"):
        if length and length % UNITS[unit] == 0:
            return f"{length / UNITS[unit]:.0f}{unit}"
    return f"{length * 1000:.3f}".rstrip("0").rstrip(".") + "ms" if length else "0s"


def size_text(octets: int) -> str:
    """Bytes as the file would write them, in the largest unit that needs no fraction."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets and octets % _SIZE[unit] == 0:
            return f"{octets // _SIZE[unit]}{unit}"
    return str(octets)


Duration = Annotated[
    float,
    BeforeValidator(duration),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": rf"^({FORM}|\$.*)$"}),
]
Size = Annotated[
    int,
    BeforeValidator(size),
    PlainSerializer(size_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": ["string", "integer"], "pattern": rf"^({_SIZE_FORM}|\$.*)$", "minimum": 0}),
]
Rate = Annotated[
    tuple[int, float],
    BeforeValidator(rate),
    PlainSerializer(lambda given: f"{given[0]}/{duration_text(given[1])}", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^([0-9]+/.+|\$.*)$"}),
]
