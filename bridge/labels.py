"""What people are shown of a job beside its columns: the title and the labels of its route. Pure.

A template is text with `{name}` in it, `{{` and `}}` for braces. A name is looked up in a table of its own: nothing of
a template is ever evaluated, and what a job lacks is empty.
"""

import json
import re
from collections.abc import Mapping

FIELDS = ("correlation_id", "id", "route", "handler", "source")
"""What a title may name, besides `header:NAME`."""

_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

Record = Mapping[str, object]


def checked_template(template: str) -> str:
    """The template.

    :raises ValueError: for a name that is not known, or a brace that stands alone; it repeats no part of the template.
    """
    for part in _PARTS.finditer(template):
        name = part[1]
        if name is None and len(part[0]) == 1:
            raise ValueError("a brace that stands alone: write {{ or }}")
        if name is not None and name not in FIELDS and not _header(name):
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ValueError(f"an unknown placeholder: known are {known} and {{header:NAME}}")
    return template


def title_of(template: str | None, job: Record) -> str | None:
    """The title of a job, by its columns; None: its route has none."""
    if template is None:
        return None
    headers = _headers(job)
    return _PARTS.sub(lambda part: part[0][0] if part[1] is None else _value(part[1], job, headers) or "", template)


def labels_of(places: Mapping[str, str], job: Record) -> dict[str, str]:
    """Its labels; one whose header the message did not have is left out."""
    headers = _headers(job) if places else {}
    values = {name: _value(place, job, headers) for name, place in places.items()}
    return {name: value for name, value in values.items() if value is not None}


def _header(place: str) -> str | None:
    """The name in `header:NAME`."""
    form, _, name = place.partition(":")
    return name if form == "header" and name else None


def _value(place: str, job: Record, headers: Mapping[str, str]) -> str | None:
    name = _header(place)
    return str(job[place]) if name is None else headers.get(name)


def _headers(job: Record) -> Mapping[str, str]:
    found: dict[str, str] = json.loads(str(job["headers"]))
    return found
