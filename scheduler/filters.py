"""Functions of yours that are told what happens to jobs in this process.

Promises: one that raises is logged with its name, and changes nothing for the job or for the others. They are called on
the thread where it happens, so they should be quick. Does not promise to tell what other processes do (a rescue, an
operator's act).
"""

from collections.abc import Callable, Iterable
from logging import getLogger
from typing import TypeVar

from scheduler.handlers import HandlerError, load_module

log = getLogger("jobbridge.filters")

F = TypeVar("F", bound=Callable[..., object])

EVENTS = ("creating", "created", "changing", "changed", "processing", "processed", "failed")
"""Each with what its functions are given:

- `creating(job)`, `created(job, outcome)`: a `NewJob` before and after it is offered to the store;
- `processing(job)`, `processed(job, error)`: before and after a run; `error` is None where it went well;
- `changing(job, state)`, `changed(job, state)`: before and after a run's result is written;
- `failed(job, error)`: no try is left.
"""

_MARK = "__jobbridge_filter__"


def on(event: str) -> Callable[[F], F]:
    """Mark a function as a filter of an event of `EVENTS`. It is used where `filters:` names it, or its module.

    :raises ValueError: for an event that is none.
    """
    if event not in EVENTS:
        raise ValueError(f"no event is called {event!r}: known are {', '.join(EVENTS)}")

    def mark(function: F) -> F:
        setattr(function, _MARK, (*getattr(function, _MARK, ()), event))
        return function

    return mark


class Filters:
    """The filters of a process, by event."""

    def __init__(self, functions: Iterable[Callable[..., object]] = ()) -> None:
        self._of: dict[str, list[Callable[..., object]]] = {event: [] for event in EVENTS}
        for function in functions:
            for event in getattr(function, _MARK, ()):
                self._of[event].append(function)

    def add(self, event: str, function: Callable[..., object]) -> None:
        """Tell one more function of an event, after the others."""
        self._of[event].append(function)

    def wants(self, event: str) -> bool:
        """Whether any function is told of it: asked before a loop over jobs."""
        return bool(self._of[event])

    def tell(self, event: str, *what: object) -> None:
        """Call the functions of an event."""
        for function in self._of[event]:
            try:
                function(*what)
            except Exception:
                log.exception("the filter %s of %s failed", getattr(function, "__qualname__", function), event)


def collect_filters(references: Iterable[str]) -> Filters:
    """The marked functions of modules, and those named as `module:function`.

    :raises HandlerError: where a module can't be imported, or nothing in it is marked.
    """
    found: list[Callable[..., object]] = []
    for reference in references:
        name, _, attribute = reference.partition(":")
        module = load_module(name, reference)
        candidates = [getattr(module, attribute, None)] if attribute else list(vars(module).values())
        marked = [one for one in candidates if callable(one) and isinstance(getattr(one, _MARK, None), tuple)]
        if not marked:
            raise HandlerError(f"{reference}: no function there is marked with @on")
        found.extend(marked)
    return Filters(found)
