"""`jobbridge help` and `jobbridge completion`."""

from difflib import get_close_matches

import click
from click.shell_completion import get_completion_class

from bridge.cli.exits import NotFound
from bridge.cli.output import chosen, print_records


@click.command("help")
@click.argument("topic", required=False)
def help_(topic: str | None) -> None:
    """Print a guide; without TOPIC list them."""
    from importlib.resources import files

    texts = (place for place in files("bridge").joinpath("help").iterdir() if place.name.endswith(".md"))
    guides = {place.name.removesuffix(".md"): place.read_text() for place in texts}
    if topic is None:
        titles = [{"topic": name, "title": guides[name].partition("\n")[0].lstrip("# ")} for name in sorted(guides)]
        print_records(titles, ("topic", "title"), None)
    elif topic not in guides:
        guess = get_close_matches(topic, guides, 1) or sorted(guides)
        raise NotFound(f"no guide is called {topic!r}: known are {', '.join(guess)}")
    elif chosen(None) == "table":
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(guides[topic]))
    else:
        click.echo(guides[topic], nl=False)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what completes this command in a shell: eval "$(jobbridge completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root()
    click.echo(kind(root.command, {}, "jobbridge", "_JOBBRIDGE_COMPLETE").source())
