"""What verbs share: their options, and the way to the configuration and the store.

Heavy modules are imported inside the functions, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from bridge.cli.exits import Mistaken, Unreachable
from bridge.cli.output import FORMATS, print_records
from bridge.config.mistakes import printable

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


def common_options(verb: Verb) -> Verb:
    return config_option(output_option(verb))


def limit_option(verb: Verb) -> Verb:
    limit = click.IntRange(1, 10_000)
    return click.option("--limit", type=limit, default=50, show_default=True, help="Rows at most.")(verb)


def importable() -> None:
    """Let handlers be modules of the current folder, which a console script does not."""
    sys.path.insert(0, "")


def configured(path: Path | None, *, import_handlers: bool = False) -> Configuration:
    """The configuration, else the verb ends with its mistakes. Handlers may be modules of the current folder."""
    from bridge.config.load import load
    from bridge.config.mistakes import ConfigurationError

    if import_handlers:
        importable()
    try:
        return load(path, import_handlers=import_handlers)
    except ConfigurationError as error:
        raise Mistaken(error.mistakes) from None


@contextlib.contextmanager
def opened(configuration: Configuration, *, may_migrate: bool = False, any_schema: bool = False) -> Iterator[Storage]:
    """The store, with a schema that fits; else the verb ends in one line.

    :param may_migrate: bring the schema up to date where `store.migrate` allows it.
    :param any_schema: take it as it is.
    """
    from bridge.assembly import store
    from scheduler.storage import SchemaOutdated, StoreUnavailable

    storage = store(configuration, pool_size=1)
    try:
        with drivers_errors():
            if may_migrate and configuration.store.migrate == "auto":
                storage.migrate()
            elif not any_schema:
                storage.check_schema()
        yield storage
    except StoreUnavailable as error:
        raise Unreachable(f"the store is not reachable: {error}") from None
    except SchemaOutdated as error:
        raise Unreachable(str(error)) from None
    finally:
        storage.close()


@contextlib.contextmanager
def drivers_errors() -> Iterator[None]:
    """What a driver says of a wrong password, or of a database that is not there: the store can't be used."""
    from scheduler.storage import SchemaOutdated, StoreUnavailable

    try:
        yield
    except (SchemaOutdated, StoreUnavailable):
        raise
    except Exception as error:
        raise StoreUnavailable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from None


def each(
    names: Sequence[str], act: Callable[[str], tuple[str, str]], output: str | None, *, done: Collection[str]
) -> int:
    """Do it to each id and print what became of it; one that is not there keeps no other from it. The exit code.

    :param act: the result's word and, where it is none of `done`, why.
    """
    acts: list[dict[str, object]] = []
    for name in names:
        result, detail = act(name)
        acts.append({"id": name, "result": result, "detail": detail})
        if result not in done:
            click.echo(f"jobbridge: {printable(name)}: {printable(detail)}", err=True)
    print_records(acts, ("id", "result"), output)
    results = Counter(str(one["result"]) for one in acts)
    if len(acts) != 1:
        click.echo(", ".join(f"{number:,} {result}" for result, number in results.items()) or "no ids came", err=True)
    return 5 if "NOT_FOUND" in results else 0 if set(results) <= set(done) else 1
