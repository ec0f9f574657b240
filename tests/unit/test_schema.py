"""The chain of migrations, the words of the check, and the URLs of stores."""

from collections.abc import Iterator

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from scheduler.storage import SchemaOutdated, Storage, open_storage
from scheduler.storage.opening import parse_url
from scheduler.storage.tables import SCHEMA_VERSION, VERSION_TABLE, metadata


@pytest.fixture
def storage(sqlite_url: str) -> Iterator[Storage]:
    opened = open_storage(sqlite_url)
    yield opened
    opened.close()


def test_the_programs_version_is_the_one_end_of_the_chain() -> None:
    """One line of revisions, each named so that text order is their order."""
    config = Config()
    config.set_main_option("script_location", "scheduler.storage:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [SCHEMA_VERSION]
    assert scripts.get_bases() == ["0001"]
    chain = [script.revision for script in scripts.walk_revisions()]
    assert chain == sorted(chain, reverse=True)


def test_all_our_tables_carry_our_prefix() -> None:
    """Users share the database."""
    assert [name for name in (*metadata.tables, VERSION_TABLE) if not name.startswith("jobbridge_")] == []


def test_the_check_names_the_command(storage: Storage) -> None:
    """Where there is nothing and where there is something old; what is newer is no mistake."""
    with pytest.raises(SchemaOutdated) as caught:
        storage.check_schema()
    assert str(caught.value) == (
        f"the database has no tables of jobbridge, version {SCHEMA_VERSION} is needed: run `jobbridge migrate`"
    )
    assert (storage.migrate(), storage.migrate()) == (True, False)
    storage.check_schema()
    with storage.engine.connect() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0000'"))
    with pytest.raises(SchemaOutdated) as caught:
        storage.check_schema()
    assert str(caught.value) == (
        f"the database is at version 0000, version {SCHEMA_VERSION} is needed: run `jobbridge migrate`"
    )


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///jobs.db", "sqlite+pysqlite"),
        ("postgresql://h/d", "postgresql+psycopg"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg"),
        ("mysql://h/d", "mysql+pymysql"),
        ("mariadb://h/d", "mysql+pymysql"),
        ("mariadb+pymysql://h/d", "mysql+pymysql"),
    ],
)
def test_each_database_has_one_driver(url: str, driver: str) -> None:
    """The short form is enough."""
    assert parse_url(url).drivername == driver


def test_credentials_of_their_own_win_over_the_urls() -> None:
    """Whatever characters they hold."""
    parsed = parse_url("postgresql://old:secret@h/d", "new@", "p/a:s@s%")
    assert (parsed.username, parsed.password, parsed.host) == ("new@", "p/a:s@s%", "h")
    assert parse_url("postgresql://old:secret@h/d").password == "secret"


@pytest.mark.parametrize(
    "url",
    ["", "hunter2", "://hunter2", "oracle://u:hunter2@h/d", "postgresql+asyncpg://u:hunter2@h/d", "mysql+x://hunter2"],
)
def test_what_is_no_store_is_refused_without_its_secrets(url: str) -> None:
    """The message says what to write."""
    with pytest.raises(ValueError, match=r"sqlite|postgresql|write|use") as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)
