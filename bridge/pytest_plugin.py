"""The fixtures that pytest finds where jobbridge is installed. Until a test asks for one, nothing else is imported.

`jobbridge` is a `bridge.testing.Bridge` of the configuration that the marker `@pytest.mark.jobbridge("bridge.yaml")`
names, else the option `jobbridge_config` of pytest's own configuration (both relative to the root folder of the
tests), else the one that the command would find. That folder and the current one are importable. What the file refers
to (`${NAME}`, `${file:PATH}`) must be there for the tests too, also where they use none of it.

`jobbridge_store` is the URL of its store: a new SQLite file. A fixture of the same name may give another, that of an
empty PostgreSQL database for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bridge.testing import Bridge


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("jobbridge_config", "The configuration that the fixture `jobbridge` takes.", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "jobbridge(path): the configuration that the fixture `jobbridge` takes.")


@pytest.fixture
def jobbridge_store(tmp_path: Path) -> str:
    """The URL of a store that is empty."""
    return f"sqlite:///{tmp_path}/jobbridge.db"


@pytest.fixture
def jobbridge(
    request: pytest.FixtureRequest, jobbridge_store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bridge]:
    """The pod of the configuration, without a broker, threads or waiting."""
    from bridge.config.load import load
    from bridge.testing import Bridge

    root = request.config.rootpath
    marker = request.node.get_closest_marker("jobbridge")
    named = str(marker.args[0] if marker is not None else request.config.getini("jobbridge_config"))
    for folder in (root, Path.cwd()):
        monkeypatch.syspath_prepend(folder)
    configuration = load(root / named if named else None, import_handlers=True)
    with Bridge(configuration, jobbridge_store) as bridge:
        yield bridge
