"""Durations as people write them: `500ms`, `30s`, `5m`, `12h`, `7d`."""

import re
from datetime import timedelta

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FORM = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)"
"""The digits are bounded, so that no text is infinite or takes long to read."""


def seconds(value: str | float | timedelta) -> float:
    """A duration in seconds; a bare number is taken as seconds.

    :raises ValueError: for text that is not a number and one of the units, and for a negative duration.
    """
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        match = re.fullmatch(FORM, value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a duration: write a number and a unit of ms, s, m, h or d, such as 30s")
        result = float(match[1]) * UNITS[match[2]]
    else:
        result = float(value)
    if not 0 <= result < float("inf"):
        raise ValueError("a duration can't be negative or infinite")
    return result
