"""Points in time: as the store counts them, and as people read them. Pure."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def since_1970(instant: datetime) -> int:
    """Microseconds, as the store counts."""
    return (instant - _EPOCH) // _MICROSECOND


def instant_of(microseconds: int) -> datetime:
    """The reverse of `since_1970`."""
    return _EPOCH + microseconds * _MICROSECOND


def rfc3339(instant: datetime) -> str:
    """In UTC, with Z."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
