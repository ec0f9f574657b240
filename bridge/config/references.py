"""References in the file's values: `${X}`, `${X:-default}`, `${X:?why}`, `${file:PATH}`, `$$`.

They are replaced after parsing, in scalar values alone, so that no value can change the structure of the file. Inside
the userinfo of a URL a value is percent-encoded, so that a password may hold `@` and `/`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

_MAX_FILE = 64 * 1024
_TOKEN = re.compile(r"\$\$|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)(.*))?", re.DOTALL)
_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://([^/?#]*)@")
_STAND_IN = "\x00"
"""Stands for a reference while its URL is looked at. No YAML scalar can hold it."""


class ReferenceMistake(Exception):
    """A reference that gives no value. `code` is `bad-reference` or `missing-reference`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """The text with its references replaced.

    :raises ReferenceMistake: for the first that can't be.
    """
    if "$" not in text:
        return text
    literals: list[str] = []
    values: list[str] = []
    position = 0
    for token in _TOKEN.finditer(text):
        literals.append(text[position : token.start()])
        values.append("$" if token[0] == "$$" else _value(token[1], closed=bool(token[2]), environ=environ))
        position = token.end()
    literals.append(text[position:])
    url = _USERINFO.match(_STAND_IN.join(literals))
    userinfo = url.span(1) if url else (0, 0)
    resolved = literals[0]
    seen = len(literals[0])
    for value, literal in zip(values, literals[1:], strict=True):
        resolved += quote(value, safe="") if userinfo[0] <= seen < userinfo[1] else value
        resolved += literal
        seen += 1 + len(literal)
    return resolved


def _value(reference: str, *, closed: bool, environ: Mapping[str, str]) -> str:
    if not closed:
        raise ReferenceMistake("bad-reference", "a ${ without its }; a plain dollar sign is $$")
    if reference.startswith("file:"):
        return _file(reference.removeprefix("file:"))
    match = _VARIABLE.fullmatch(reference)
    if match is None:
        raise ReferenceMistake("bad-reference", "not a reference: write ${X}, ${X:-default}, ${X:?why} or ${file:PATH}")
    name, form, rest = match[1], match[2], match[3]
    value = environ.get(name)
    if form == ":-":
        return value or rest
    if form == ":?" and not value:
        raise ReferenceMistake("missing-reference", f"the environment has no {name}: {rest or 'it must be set'}")
    if value is None:
        raise ReferenceMistake("missing-reference", f"the environment has no {name}")
    return value


def _file(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a file name"
        raise ReferenceMistake("missing-reference", f"can't read the file {name}: {why}") from None
    if len(content) > _MAX_FILE:
        raise ReferenceMistake("missing-reference", f"the file {name} is larger than 64 KiB")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ReferenceMistake("missing-reference", f"the file {name} is not UTF-8") from None
