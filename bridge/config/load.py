"""From a file to a `Configuration`: every mistake at once, each part on its own.

Promises: what is wrong in one part hides nothing in another; any file gives a configuration or a
`ConfigurationError`, never another exception. The environment of the process is read here and nowhere else.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bridge.config.cases import Case
from bridge.config.check import check, check_cases
from bridge.config.document import MAX_FILE, Document, read
from bridge.config.mistakes import ConfigurationError, Mistake, Place
from bridge.config.model import Configuration
from bridge.config.parts import Draft, cases, draft
from bridge.config.routes import Backoff, Route

SEARCHED = ("bridge.yaml", "config/bridge.yaml")


class Examined(NamedTuple):
    configuration: Configuration | None
    """None: it has errors."""
    mistakes: tuple[Mistake, ...]
    """Errors and warnings, in the order of the file."""
    document: Document | None = None
    """Where things stand, for what is said about them later; None: the file could not be read."""


def load(
    path: Path | None, *, import_handlers: bool = False, environ: Mapping[str, str] | None = None
) -> Configuration:
    """The configuration of this process.

    :param path: None: what `JOBBRIDGE_CONFIG` names, else `bridge.yaml`, else `config/bridge.yaml`.
    :param import_handlers: also import what routes and `handlers` name, and refuse what can't be used.
    :param environ: what references are taken from; None: the process's environment.
    :raises ConfigurationError: with every mistake.
    """
    configuration, mistakes, _ = examine(path, import_handlers=import_handlers, environ=environ)
    if configuration is None:
        raise ConfigurationError(mistakes)
    return configuration


def examine(path: Path | None, *, import_handlers: bool = False, environ: Mapping[str, str] | None = None) -> Examined:
    """As `load`, but the mistakes are returned, warnings among them."""
    environ = os.environ if environ is None else environ
    try:
        document = read(*_text(path, environ), environ)
    except ConfigurationError as error:
        return Examined(None, error.mistakes)
    if any(mistake.path == "" for mistake in document.mistakes):
        return Examined(None, tuple(document.mistakes), document)
    found = draft(document)
    check(found, import_handlers=import_handlers)
    mistakes = _ordered(document)
    if any(mistake.severity == "error" for mistake in mistakes):
        return Examined(None, mistakes, document)
    return Examined(_assemble(found), mistakes, document)


class Located(NamedTuple):
    """A test of routes, and where it stands."""

    where: Place
    case: Case


def read_tests(configuration: Path, files: Iterable[Path]) -> list[Located]:
    """The tests of these files, which are for this configuration; what is wrong in its other parts is not looked at.

    :raises ConfigurationError: with the mistakes in them.
    """
    beside = Draft(read(*_text(configuration, os.environ), os.environ))
    found: list[Located] = []
    mistakes: list[Mistake] = []
    for file in files:
        own = file.resolve() == configuration.resolve()
        document = beside.document if own else read(*_text(file, os.environ), os.environ)
        of_file = cases(document, alone=not own)
        check_cases(document, of_file, beside)
        mistakes += [one for one in _ordered(document) if not own or not one.path or one.path.startswith("tests")]
        found += [Located(document.place(("tests", i)), case) for i, case in of_file.items() if case is not None]
    if mistakes:
        raise ConfigurationError(mistakes)
    return found


def overlaid(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of the process with these over it."""
    return {**os.environ, **env}


def _ordered(document: Document) -> tuple[Mistake, ...]:
    # What an alias repeats is one mistake, at the place of its anchor.
    unique = {
        (mistake.code, mistake.where, mistake.path.rpartition(".")[2], mistake.message): mistake
        for mistake in reversed(document.mistakes)
    }
    return tuple(sorted(unique.values(), key=lambda mistake: (mistake.where, mistake.path, mistake.code)))


def located(path: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file of the configuration, as `load` looks for it.

    :raises ConfigurationError: there is none.
    """
    if path is None and environ.get("JOBBRIDGE_CONFIG"):
        path = Path(environ["JOBBRIDGE_CONFIG"])
    if path is None:
        path = next((Path(name) for name in SEARCHED if Path(name).is_file()), None)
    if path is None:
        raise _no_file(Path(SEARCHED[0]), f"no configuration: looked for {' and '.join(SEARCHED)}; name one with -c")
    return path


def _text(path: Path | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """The text of the file and its name."""
    path = located(path, environ)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a file name"
        raise _no_file(path, f"can't read it: {why}") from None
    if len(content) > MAX_FILE:
        raise ConfigurationError([Mistake("too-large", Place(str(path), 1, 1), "", "larger than 1 MiB")])
    try:
        return content.decode("utf-8-sig"), str(path)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        place = Place(str(path), before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise ConfigurationError([Mistake("syntax", place, "", "not UTF-8")]) from None


def _no_file(path: Path, message: str) -> ConfigurationError:
    return ConfigurationError([Mistake("no-file", Place(str(path), 1, 1), "", message)])


def _assemble(found: Draft) -> Configuration:
    """The whole, from parts that were all checked."""
    defaults = found.defaults.backoff if found.defaults is not None else None
    whole: dict[str, object] = {
        "store": found.store,
        "brokers": found.brokers,
        "sources": found.sources,
        "defaults": found.defaults,
        "routes": tuple(_complete(route, defaults) for route in found.routes.values() if route is not None),
        "recurring": found.recurring | {"prune": found.prune or False},
        "retention": found.retention,
        "handlers": found.handlers,
        "filters": found.filters,
        "pod": found.pod,
        "http": found.http,
        "tests": tuple(case for case in found.cases.values() if case is not None),
    }
    return Configuration.model_validate({name: part for name, part in whole.items() if part is not None})


def _complete(route: Route, defaults: Backoff | None) -> Route:
    if route.backoff is None or defaults is None:
        return route
    own = {name: getattr(route.backoff, name) for name in route.backoff.model_fields_set}
    return route.model_copy(update={"backoff": defaults.model_copy(update=own)})
