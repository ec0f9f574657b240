"""`jobbridge test`: the tests of routes, through the decoding and routing of ingestion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import Failed, Mistaken
from bridge.cli.options import common_options, importable
from bridge.cli.output import print_records
from bridge.config.mistakes import printable

if TYPE_CHECKING:
    from bridge.config.cases import Case
    from bridge.config.load import Located
    from bridge.config.model import Configuration
    from bridge.explain import Explainer

_COLUMNS = ("result", "name", "detail")


@click.command()
@common_options
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Also write them as JUnit's XML.")
@click.argument("files", metavar="[FILES]...", nargs=-1, type=click.Path(path_type=Path))
@click.pass_context
def test(
    context: click.Context, config: Path | None, output: str | None, junit: Path | None, files: tuple[Path, ...]
) -> None:
    """Run the tests of routes.

    They are those under `tests:` of the configuration and of the files *.test.yaml beside it, or those of FILES. Ends
    with 0 if all passed, with 1 if one failed or there is none.
    """
    importable()
    known: dict[frozenset[tuple[str, str]], tuple[Configuration, Explainer]] = {}
    rows: list[dict[str, object]] = []
    for where, case in _found(config, files):
        key = frozenset(case.env.items())
        if key not in known:
            known[key] = _ready(config, case.env)
        failures = _failures(*known[key], case)
        at = {"file": where.file, "line": where.line}
        rows.append({"result": "failed" if failures else "passed", "name": case.name, **at, "detail": failures})
    if not rows:
        raise Failed("there are no tests: write some under tests: of the configuration, or in a *.test.yaml beside it")
    if junit is not None:
        _write(junit, rows)
    print_records(rows, _COLUMNS, output)
    failed = sum(bool(row["detail"]) for row in rows)
    click.echo(f"{len(rows) - failed} passed, {failed} failed", err=True)
    context.exit(1 if failed else 0)


def _found(config: Path | None, files: Sequence[Path]) -> list[Located]:
    from bridge.config.load import located, read_tests
    from bridge.config.mistakes import ConfigurationError

    try:
        place = located(config)
        return read_tests(place, files or (place, *sorted(place.parent.glob("*.test.yaml"))))
    except ConfigurationError as error:
        raise Mistaken(error.mistakes) from None


def _ready(config: Path | None, env: Mapping[str, str]) -> tuple[Configuration, Explainer]:
    from bridge.config.load import examine, overlaid
    from bridge.explain import Explainer

    examined = examine(config, import_handlers=True, environ=overlaid(env))
    if examined.configuration is None:
        raise Mistaken(examined.mistakes)
    return examined.configuration, Explainer(examined.configuration)


def _failures(configuration: Configuration, explainer: Explainer, case: Case) -> str:
    """What is not as expected; empty: nothing."""
    from bridge.message import written
    from bridge.sources.stand_in import delivered
    from scheduler.bodies import encoded

    section = configuration.sources[case.message.source]
    given = case.message.model_dump(exclude={"source", "body", "headers"})
    try:
        message = written(encoded(case.message.body), case.message.headers.items(), **given)
    except ValueError:
        return "the message holds half of a surrogate pair, which no bytes stand for"
    shown, _ = explainer.explain(case.message.source, delivered(message, section))
    wanted = case.expect.model_dump(exclude_none=True, exclude={"field"})
    found = {name: None if shown.get(name) is None else str(shown[name]) for name in wanted}
    told = [f"{name} is {found[name]!r}, not {value!r}" for name, value in wanted.items() if found[name] != value]
    fields = shown.get("fields", [])
    assert isinstance(fields, list)
    if case.expect.field is not None and case.expect.field not in fields:
        told.append(f"the fields that are wrong are {fields}, not {case.expect.field!r}")
    if told and shown["outcome"] == "dead-letter":
        told.append(f"{shown['reason']}: {shown['detail']}")
    return "; ".join(told)


def _write(place: Path, rows: Sequence[Mapping[str, object]]) -> None:
    from xml.etree.ElementTree import Element, ElementTree, SubElement

    failed = sum(bool(row["detail"]) for row in rows)
    suite = Element("testsuite", name="jobbridge", tests=str(len(rows)), failures=str(failed))
    for row in rows:
        case = SubElement(suite, "testcase", name=str(row["name"]), classname=str(row["file"]), line=str(row["line"]))
        if row["detail"]:
            SubElement(case, "failure", message=printable(str(row["detail"])))
    try:
        ElementTree(suite).write(place, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise Failed(f"can't write {place}: {error.strerror}") from None
