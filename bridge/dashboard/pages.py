"""Facts as pages: Jinja2 with everything escaped, links below wherever the program is mounted."""

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request

from bridge.config.model import Configuration
from bridge.dashboard.gate import VISITOR, Visitor
from bridge.dashboard.overview import COUNTED
from bridge.shown import moment, presentable
from scheduler.job import JobState
from scheduler.storage.pages import LOOKED

SAID = {
    "DONE": "Done.",
    "CREATED": "It is a job now.",
    "DUPLICATE": "Its job stood already: the dead letter is gone.",
    "STILL_REJECTED": "It can't become a job yet: see what is in the way.",
    "NOT_FOUND": "It is gone meanwhile.",
    "WRONG_STATE": "Not possible in the state that it is in now.",
    "BODY_DROPPED": "Its body was dropped when it succeeded: it can't run again.",
    "LOST_RACE": "It moved on meanwhile: look again.",
}
"""What became of an act, by the word in the page's address; no other text of an address is shown as a message."""


class Pages:
    """Renders templates."""

    def __init__(self, configuration: Configuration) -> None:
        self._environment = Environment(
            loader=PackageLoader("bridge.dashboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._environment.filters |= {"when": when, "span": span, "hex_id": hex_id}
        self._environment.globals |= {
            "states": [state.value for state in JobState],
            "pod": configuration.pod.name,
            "looked": LOOKED,
            "counted": COUNTED,
        }

    def render(self, name: str, facts: Mapping[str, object], request: Request) -> bytes:
        """A page, for a request below whatever the program is mounted under. Bytes of a message that are no UTF-8 are
        shown by their numbers."""
        root = request.scope.get("root_path", "")
        visitor = request.scope.get(VISITOR)

        def url(path: str, query: Mapping[str, object] | None = None, **more: object) -> str:
            fields = {name: value for name, value in {**(query or {}), **more}.items() if value is not None}
            return f"{root}{path}{'?' * bool(fields)}{urlencode(fields)}"

        template = self._environment.get_template(f"{name}.html")
        more = {
            "url": url,
            "here": str(request.url.remove_query_params("result").replace(scheme="", netloc="")),
            "said": SAID.get(request.query_params.get("result", "")),
            "may_act": isinstance(visitor, Visitor) and visitor.may_act,
            "page": name,
        }
        return template.render({**facts, **more}).encode("utf-8", "backslashreplace")


def when(value: object) -> Markup:
    """A point in time, for the browser to show in its own zone: microseconds since 1970, or RFC 3339."""
    if value is None:
        return Markup("")
    text = moment(value) if isinstance(value, int) else str(value)
    shown = datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}">{}</time>').format(text, shown)


def span(seconds: float) -> str:
    """A duration in its largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, length, lower, low in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if seconds < length * (60 if unit != "h" else 48) or unit == "d":
            rest = int(seconds % length // low)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {lower}" if rest else "")
    raise AssertionError


def hex_id(value: object) -> str:
    """An id as paths and people have it."""
    return str(UUID(bytes=value) if isinstance(value, bytes) else value)


def jsonable(value: object) -> object:
    """Facts as JSON takes them."""
    if isinstance(value, Mapping):
        return {name: jsonable(one) for name, one in presentable(value).items()}
    if isinstance(value, list | tuple):
        return [jsonable(one) for one in value]
    return str(value) if isinstance(value, UUID) else value.hex() if isinstance(value, bytes) else value
