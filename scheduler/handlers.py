"""Handlers: plain functions, found by the configuration alone, and what each wants to be given.

Promises: nothing that a message or a row says chooses what is imported (I6); a body is parsed strictly (no NaN,
no duplicate names, no recursion bomb) and validated against the annotation of the handler's first parameter.
Does not promise anything about how handlers run: that is `executors.py`.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple, ParamSpec, TypeVar, overload

from scheduler.bodies import BodyParser, UnreadableAnnotation, parsers
from scheduler.context import JobContext
from scheduler.duration import seconds
from scheduler.retry import Backoff, PolicyOverride

P = ParamSpec("P")
R = TypeVar("R")

MARK = "__jobbridge_job__"
"""Where `@job` puts its options."""


class HandlerError(Exception):
    """A handler can't be used; the text says which and what to change."""


class JobOptions(NamedTuple):
    """What `@job` sets; None: the configuration decides."""

    name: str | None = None
    policy: PolicyOverride = PolicyOverride()
    retry_on: tuple[type[BaseException], ...] = ()
    """Given: only these are tried again."""
    no_retry_on: tuple[type[BaseException], ...] = ()
    """These fail the job at once."""
    transactional: bool = False

    def retries(self, error: BaseException) -> bool:
        """Whether this error is worth another try."""
        if isinstance(error, self.no_retry_on):
            return False
        return not self.retry_on or isinstance(error, self.retry_on)


@overload
def job(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def job(
    *,
    name: str | None = None,
    retries: int | None = None,
    timeout: str | float | None = None,
    backoff: Backoff | None = None,
    retry_on: tuple[type[BaseException], ...] = (),
    no_retry_on: tuple[type[BaseException], ...] = (),
    transactional: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def job(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int | None = None,
    timeout: str | float | None = None,
    backoff: Backoff | None = None,
    retry_on: tuple[type[BaseException], ...] = (),
    no_retry_on: tuple[type[BaseException], ...] = (),
    transactional: bool = False,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as a handler, with a stable name and defaults. It registers nothing.

    :param name: what is stored in the job's row; without it `module:function` is, which a rename breaks.
    :param retries: runs after the first.
    :param timeout: of one run: seconds, or text such as `30s`.
    :param retry_on: only these errors are tried again; all others fail the job at once.
    :param no_retry_on: these errors fail the job at once.
    :param transactional: `context.connection` is a transaction of the store's database, which commits what the handler
        wrote and the job's success together, or nothing.
    """
    policy = PolicyOverride(retries=retries, timeout=None if timeout is None else seconds(timeout), backoff=backoff)
    options = JobOptions(name, policy, retry_on, no_retry_on, transactional)

    def mark(marked: Callable[P, R]) -> Callable[P, R]:
        setattr(marked, MARK, options)
        return marked

    return mark if function is None else mark(function)


class Handler(NamedTuple):
    """A function and how to call it."""

    name: str
    """What is stored in a job's row."""
    function: Callable[..., object]
    options: JobOptions
    is_async: bool
    parse: BodyParser
    """Body bytes to the value that the handler is given.

    :raises InvalidBody: where they are not what the annotation asks for.
    """
    load: BodyParser
    """The same for a body that `parse` has seen before, which need not be as strict again."""
    call: Callable[[object, JobContext | None], object]
    """Run the function with what it asks for."""
    takes_context: bool


def _caller(
    function: Callable[..., object], body: inspect.Parameter | None, context: str | None
) -> Callable[[object, JobContext | None], object]:
    if context is None and body is None:
        return lambda _body, _context: function()
    if context is None and body is not None and body.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return lambda value, _context: function(value)

    def call(value: object, given: JobContext | None) -> object:
        arguments = {} if body is None else {body.name: value}
        if context is not None:
            arguments[context] = given
        return function(**arguments)

    return call


def describe(function: object, reference: str) -> Handler:
    """Read a function's signature.

    :param reference: `module:function`, for the messages and as the name where `@job` gives none.
    :raises HandlerError: for what is no function, or one that can't be called with a body and a context alone.
    """
    if isinstance(function, type) or not callable(function):
        raise HandlerError(f"{reference} is not a function")
    try:
        parameters = list(inspect.signature(function).parameters.values())
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, ValueError) as error:
        raise HandlerError(f"{reference}: its signature can't be read: {error}") from None
    context = next((p.name for p in parameters if hints.get(p.name) is JobContext), None)
    rest = [p for p in parameters if p.name != context]
    keyword = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    body = rest[0] if rest and rest[0].kind in keyword else None
    for parameter in rest:
        variadic = parameter.kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        if parameter is not body and not variadic and parameter.default is inspect.Parameter.empty:
            raise HandlerError(
                f"{reference}: the parameter {parameter.name!r} has no default: a handler takes its body by name, "
                f"and a JobContext"
            )
    annotation = hints.get(body.name, inspect.Parameter.empty) if body is not None else bytes
    try:
        parse, load = parsers(annotation)
    except UnreadableAnnotation as error:
        raise HandlerError(f"{reference}: {error}") from None
    options = getattr(function, MARK, None)
    options = options if isinstance(options, JobOptions) else JobOptions()
    if options.transactional and inspect.iscoroutinefunction(function):
        raise HandlerError(f"{reference}: a transactional handler is a plain function, not async")
    return Handler(
        options.name or reference,
        function,
        options,
        inspect.iscoroutinefunction(function),
        parse,
        load,
        _caller(function, body, context),
        context is not None,
    )


def load_module(name: str, reference: str) -> ModuleType:
    """Import what the configuration names.

    :raises HandlerError: where that fails, in whatever way.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise HandlerError(f"{reference}: can't import {name}: {type(error).__name__}: {error}") from error


def resolve(reference: str) -> Handler:
    """The handler that `module:function` names. The configuration names it, never a message or a row.

    :raises HandlerError: where the module can't be imported, or has no such function, or it can't be a handler.
    """
    module_name, colon, attribute = reference.partition(":")
    if not (colon and module_name and attribute):
        raise HandlerError(f"{reference!r} is not module:function")
    module = load_module(module_name, reference)
    if not hasattr(module, attribute):
        raise HandlerError(f"{reference}: the module {module_name} has no {attribute}")
    return describe(getattr(module, attribute), reference)


def collect(references: Iterable[str]) -> Sequence[Handler]:
    """The handlers of `handlers:`: the `@job` functions of each module, and each `module:function`.

    :raises HandlerError: as `resolve`; and for a module that marks no function.
    """
    found: list[Handler] = []
    for reference in references:
        if ":" in reference:
            found.append(resolve(reference))
            continue
        module = load_module(reference, reference)
        marked = [
            describe(value, f"{reference}:{name}")
            for name, value in vars(module).items()
            if isinstance(getattr(value, MARK, None), JobOptions) and value.__module__ == module.__name__
        ]
        if not marked:
            raise HandlerError(f"{reference}: no function in it is marked with @job or @recurring")
        found.extend(marked)
    return found


class HandlerRegistry(Mapping[str, Handler]):
    """The handlers of one process, by the name that is stored in the rows."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self._handlers: dict[str, Handler] = {}
        for handler in handlers:
            known = self._handlers.setdefault(handler.name, handler)
            if known.function is not handler.function:
                raise HandlerError(f"two functions are handlers under the name {handler.name!r}")

    def __getitem__(self, name: str) -> Handler:
        return self._handlers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def find(self, reference: str) -> Handler:
        """The handler that a route names: an `@job` name known here, else `module:function`.

        :raises HandlerError: for neither.
        """
        known = self._handlers.get(reference)
        if known is not None:
            return known
        if ":" not in reference:
            raise HandlerError(
                f"no handler is called {reference!r}: write module:function, or list its module under handlers"
            )
        return resolve(reference)
