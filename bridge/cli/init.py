"""`jobbridge init`: a project that runs at once, on SQLite and the local queue."""

import shlex
from pathlib import Path

import click

from bridge.cli.exits import Failed

_FILES = ("bridge.yaml", "handlers.py", "test_handlers.py")
_PUBLISH = """jobbridge publish orders '{"id": 7, "amount": 12.5}' --correlation-id order-7"""
_STEPS = ("jobbridge run &", _PUBLISH, _PUBLISH, "jobbridge jobs wait order-7", "jobbridge jobs list")


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Write a configuration, a handler and its test into DIR, which run at once on SQLite.

    No file is ever overwritten: where one stands already, nothing is written.
    """
    from importlib.resources import files

    places = [folder / name for name in _FILES]
    if standing := [str(place) for place in places if place.is_symlink() or place.exists()]:
        raise Failed(f"nothing is written, since there is already {', '.join(standing)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in places:
            with place.open("xb") as file:
                file.write(files("bridge").joinpath("starter", place.name).read_bytes())
            click.echo(place)
    except OSError as error:
        raise Failed(f"can't write {error.filename}: {error.strerror}") from None
    steps = _STEPS if folder == Path() else (f"cd {shlex.quote(str(folder))}", *_STEPS)
    click.echo("\nNow publish one message twice and see one job:\n", err=True)
    for step in steps:
        click.echo(f"  {step}", err=True)
