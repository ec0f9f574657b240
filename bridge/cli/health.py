"""`jobbridge health`: a probe for containers that have no curl."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.exits import Failed
from bridge.cli.options import config_option, configured

if TYPE_CHECKING:
    from bridge.config.model import Http

PATIENCE = 3.0
"""Seconds that the pod may take to answer."""


@click.command()
@config_option
@click.option("--live", "check", flag_value="live", help="Only whether a restart would mend it.")
@click.option("--ready", "check", flag_value="ready", default="ready", help="Whether it can work now (the default).")
def health(config: Path | None, check: str) -> None:
    """Ask the pod of this configuration on this machine how it is.

    \b
    By its port, where `http` is set; else by the age and content of `pod.heartbeat_file`.
    Ends with 0 where all is well, else with 1 and what is wrong on stderr.
    """
    configuration = configured(config)
    if configuration.http is not None:
        wrong = _by_port(configuration.http, check)
    elif configuration.pod.heartbeat_file is not None:
        wrong = _by_file(Path(configuration.pod.heartbeat_file), check)
    else:
        raise click.UsageError("nothing to ask: the configuration has neither `http` nor `pod.heartbeat_file`")
    if wrong:
        raise Failed("; ".join(f"{part}: {why}" for part, why in wrong.items()))
    click.echo("ok")


def _by_port(http: Http, check: str) -> dict[str, str]:
    from http.client import HTTPConnection, HTTPException

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.bind, http.bind)
    connection = HTTPConnection(host, http.port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/{check}z")
        answer = connection.getresponse()
        return {} if answer.status == 200 else dict(json.loads(answer.read())["wrong"])
    except (OSError, HTTPException, ValueError, KeyError) as error:
        return {"pod": f"port {http.port} does not answer: {type(error).__name__}"}
    finally:
        connection.close()


def _by_file(path: Path, check: str) -> dict[str, str]:
    from bridge.pulse import STALE

    try:
        age = time.time() - path.stat().st_mtime
        told: dict[str, dict[str, str]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return {"pod": f"{path} can't be read: {type(error).__name__}"}
    return (
        told[check] if age <= STALE else {"pod": f"{path} was written {age:.0f} s ago, it should be at most {STALE:g}"}
    )
