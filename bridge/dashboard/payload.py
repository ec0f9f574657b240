"""Bodies and headers as the configuration lets people see them: `show`, `keys` or `hide`."""

import json
from collections.abc import Mapping
from typing import Literal

from scheduler.storage.pages import HEAD

Payloads = Literal["show", "keys", "hide"]

HEX = 4096
"""Bytes that are shown in hexadecimal."""


def shown_body(body: object, size: object, payloads: Payloads) -> dict[str, object]:
    """The head of a body in the forms that it has: `json`, `text`, `hex`; or why there is none.

    :param size: of the whole.
    """
    if not isinstance(body, bytes) or not isinstance(size, int):
        return {"why": "it was dropped when the job succeeded"}
    shown: dict[str, object] = {"size": size, "cut": size > len(body)}
    if payloads == "hide":
        return shown | {"why": "http.payloads hides it"}
    try:
        whole: object = json.loads(body) if size == len(body) else None
        found = None if whole is None else json.dumps(whole if payloads == "show" else masked(whole), indent=2)
    except (ValueError, RecursionError):
        found = None
    if payloads == "keys":
        why = f"larger than {HEAD // 1024} KiB" if shown["cut"] else "not JSON"
        return shown | ({"why": f"{why}: only http.payloads: show shows it"} if found is None else {"json": found})
    forms = {"json": found, "text": _text(body), "hex": _hex(body[:HEX])}
    return shown | {name: form for name, form in forms.items() if form is not None}


def masked(value: object) -> object:
    """The same with each value's type in the place of the value."""
    if isinstance(value, dict):
        return {name: masked(one) for name, one in value.items()}
    if isinstance(value, list):
        return [masked(one) for one in value]
    if value is None:
        return None
    return "(true or false)" if isinstance(value, bool) else "(text)" if isinstance(value, str) else "(number)"


def shown_headers(headers: Mapping[str, object], payloads: Payloads) -> dict[str, object]:
    """Headers, or their names."""
    if payloads == "hide":
        return {}
    return {name: value if payloads == "show" else masked(value) for name, value in headers.items()}


def _text(body: bytes) -> str | None:
    """None: it is none. A character that the end of the head cuts in two is left out."""
    for cut in range(4):
        try:
            return body[: len(body) - cut].decode() or None
        except UnicodeDecodeError:
            continue
    return None


def _hex(body: bytes) -> str | None:
    rows = (body[start : start + 16] for start in range(0, len(body), 16))
    lines = (
        f"{number * 16:06x}  {row.hex(' '):<47}  {''.join(chr(c) if 32 <= c < 127 else '.' for c in row)}"
        for number, row in enumerate(rows)
    )
    return "\n".join(lines) or None
