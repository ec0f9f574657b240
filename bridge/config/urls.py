"""URLs of stores and brokers: checked, normalized, and parted from their credentials.

Promises: what `split` returns as the URL holds no credential, so that it can be logged; no message of this file
repeats a part of the URL but its scheme.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from pydantic_core import PydanticCustomError

STORE_SCHEMES: Mapping[str, str] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "mariadb+pymysql": "mariadb+pymysql",
}
"""What the file may write, and what it means."""

BROKER_SCHEMES: Mapping[str, str] = {"amqp": "amqp", "amqps": "amqps", "kafka": "kafka"}

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,30})://(?:([^/?#]*)@)?(.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._\-]+)(?::([0-9]{1,5}))?")
_SECRET = re.compile(r"pass|secret|token|pwd", re.IGNORECASE)


class SplitUrl(NamedTuple):
    url: str
    """Normalized, without credentials."""
    username: str | None
    password: str | None


def scheme_of(url: object) -> str | None:
    """The scheme, in lower case, of what may be a URL."""
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    return None if match is None else match[1].lower()


def split(url: str, schemes: Mapping[str, str]) -> SplitUrl:
    """Check a URL and part it from its credentials.

    :raises PydanticCustomError: with the code `bad-url` or `unknown-scheme`.
    """
    match = _URL.fullmatch(url.strip())
    known = ", ".join(f"{scheme}://" for scheme in schemes)
    if match is None:
        raise PydanticCustomError("bad-url", "not a URL: it begins with one of {known}", {"known": known})
    written, userinfo, rest = match[1].lower(), match[2], match[3]
    scheme = schemes.get(written)
    if scheme is None:
        guess = get_close_matches(written, schemes, 1)
        hint = f'did you mean "{guess[0]}://"?' if guess else f"known are {known}"
        raise PydanticCustomError(
            "unknown-scheme", 'unknown scheme "{scheme}://": {hint}', {"scheme": written, "hint": hint}
        )
    if scheme == "sqlite":
        _check_file(userinfo, rest)
    else:
        _check_hosts(rest, many=scheme == "kafka")
    username, colon, password = (userinfo or "").partition(":")
    return SplitUrl(f"{scheme}://{rest}", unquote(username) if username else None, unquote(password) if colon else None)


def _check_file(userinfo: str | None, rest: str) -> None:
    path = rest.partition("?")[0]
    if userinfo is not None or not path.startswith("/") or path in ("/", "/:memory:"):
        raise PydanticCustomError(
            "bad-url", "a SQLite URL names a file: sqlite:///relative.db or sqlite:////absolute/path.db"
        )


def _check_hosts(rest: str, *, many: bool) -> None:
    parts = re.fullmatch(r"([^/?#]*)([^?]*)(?:\?(.*))?", rest, re.DOTALL)
    hosts, path, query = (parts[1], parts[2], parts[3]) if parts else ("", "", None)
    for host in hosts.split(",") if many else [hosts]:
        match = _HOST.fullmatch(host)
        if match is None or (match[1] and not 0 < int(match[1]) < 65536):
            raise PydanticCustomError(
                "bad-url",
                "no host, or a port that is no number: in credentials / ? # @ : and % must be percent-encoded, "
                "or write them under username and password",
            )
    if "@" in path:
        raise PydanticCustomError("bad-url", 'an "@" in the path must be written as %40')
    if any(_SECRET.search(name) for name, _ in parse_qsl(query or "", keep_blank_values=True)):
        raise PydanticCustomError("bad-url", "no secrets after the ?: write them under username and password")
