"""What verbs share: their options, and the way to the configuration and the store.

Heavy modules are imported inside the functions, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from bridge.cli.exits import Mistaken, Unreachable
from bridge.cli.output import FORMATS

if TYPE_CHECKING:
    from bridge.config.model import Configuration
    from scheduler.storage import Storage

Verb = TypeVar("Verb", bound=Callable[..., object])


def config_option(verb: Verb) -> Verb:
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The configuration; else JOBBRIDGE_CONFIG, ./bridge.yaml, config/bridge.yaml.",
    )(verb)


def output_option(verb: Verb) -> Verb:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        help="How to print; a table on a terminal, tab-separated values in a pipe.",
    )(verb)


def limit_option(verb: Verb) -> Verb:
    limit = click.IntRange(1, 10_000)
    return click.option("--limit", type=limit, default=50, show_default=True, help="Rows at most.")(verb)


def configured(path: Path | None, *, import_handlers: bool = False) -> Configuration:
    """The configuration, else the verb ends with its mistakes."""
    from bridge.config.load import load
    from bridge.config.mistakes import ConfigurationError

    try:
        return load(path, import_handlers=import_handlers)
    except ConfigurationError as error:
        raise Mistaken(error.mistakes) from None


@contextlib.contextmanager
def reaching_store() -> Iterator[None]:
    """Ends the verb in one line where the store does not answer, or its schema does not fit."""
    from scheduler.storage import SchemaOutdated, StoreUnavailable

    try:
        yield
    except StoreUnavailable as error:
        raise Unreachable(f"the store is not reachable: {error}") from None
    except SchemaOutdated as error:
        raise Unreachable(str(error)) from None


@contextlib.contextmanager
def opened(configuration: Configuration, *, may_migrate: bool = False) -> Iterator[Storage]:
    """The store, with a schema that fits.

    :param may_migrate: bring the schema up to date where `store.migrate` allows it.
    """
    from bridge.assembly import store
    from scheduler.storage import SchemaOutdated, StoreUnavailable

    with reaching_store():
        storage = store(configuration, pool_size=1)
        try:
            try:
                if may_migrate and configuration.store.migrate == "auto":
                    storage.migrate()
                else:
                    storage.check_schema()
            except (SchemaOutdated, StoreUnavailable):
                raise
            except Exception as error:  # a driver's own: a wrong password, a database that is not there
                why = str(error).partition("\n")[0]
                raise Unreachable(f"the store can't be used: {type(error).__name__}: {why}") from None
            yield storage
        finally:
            storage.close()
