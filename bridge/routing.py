"""Which route a message takes: the first of its source whose `when` holds. Pure.

No message chooses code: it can only match what the configuration wrote (I6).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from bridge.config.routes import Route
from bridge.message import Message
from scheduler.handlers import Handler

Test = Callable[[Message, Mapping[str, str]], bool]


class Rule(NamedTuple):
    """A route, ready to be tried."""

    route: Route
    handler: Handler
    tests: tuple[Test, ...]

    def matches(self, message: Message, headers: Mapping[str, str]) -> bool:
        """Whether all of its `when` holds."""
        return all(test(message, headers) for test in self.tests)


def rule(route: Route, handler: Handler) -> Rule:
    """Make a route ready."""
    return Rule(route, handler, tuple(_test(key, pattern) for key, pattern in route.when.items()))


def choose(rules: Sequence[Rule], message: Message, headers: Mapping[str, str]) -> Rule | None:
    """The first rule that matches; None: there is none."""
    for one in rules:
        if not one.tests or one.matches(message, headers):
            return one
    return None


def tried(rules: Sequence[Rule], message: Message, headers: Mapping[str, str]) -> Iterator[tuple[Route, str]]:
    """The routes that `choose` looks at, in order; of each what of its `when` does not hold, nothing for the last."""
    for one in rules:
        unmet = [
            f"{key} is {_shown(_value(key, message, headers))}, not {pattern!r}"
            for (key, pattern), test in zip(one.route.when.items(), one.tests, strict=True)
            if not test(message, headers)
        ]
        yield one.route, "; ".join(unmet)
        if not unmet:
            return


def _shown(found: str | None) -> str:
    return "missing" if found is None else repr(found)


def _value(key: str, message: Message, headers: Mapping[str, str]) -> str | None:
    return headers.get(key.removeprefix("header:")) if key.startswith("header:") else _field(message, key)


def _test(key: str, pattern: str) -> Test:
    holds = _pattern(pattern)
    if key.startswith("header:"):
        name = key.removeprefix("header:")
        return lambda _, headers: holds(headers.get(name))
    return lambda message, _: holds(_field(message, key))


def _field(message: Message, key: str) -> str | None:
    fields = {
        "routing_key": message.routing_key,
        "topic": message.topic,
        "type": message.type,
        "content_type": message.content_type,
    }
    return fields[key]


def _pattern(pattern: str) -> Callable[[str | None], bool]:
    if any(character in pattern for character in "*?["):
        return lambda value: value is not None and fnmatchcase(value, pattern)
    return lambda value: value == pattern
