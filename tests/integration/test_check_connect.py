"""`check --connect` asks the store: its version, its clock, and whether a pod could write to it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, make_url, text

from bridge.cli.main import cli
from scheduler.storage import Storage, open_storage
from scheduler.storage.database import Options
from scheduler.storage.tables import db_now


def check(folder: Path, url: str) -> Result:
    file = folder / "bridge.yaml"
    file.write_text(f'store: "{url}"\n')
    done = CliRunner().invoke(cli, ["check", "--connect", "-c", str(file)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


def test_a_good_store_is_described(store_url: str, tmp_path: Path) -> None:
    """And left as it is, whatever was tried."""
    with closing(open_storage(store_url)) as storage:
        storage.migrate()
        done = check(tmp_path, store_url)
        assert (done.exit_code, done.stdout) == (0, "0 errors, 0 warnings\n"), done.output
        assert done.stderr.startswith(f"the store's tables have version {storage.schema_version()}, its clock ")
        assert storage.count_by_state() == dict.fromkeys(storage.count_by_state(), 0)


def test_a_role_that_may_not_write_is_told(postgresql_url: str, tmp_path: Path) -> None:
    """On any one of the tables; it can read them all."""
    with closing(open_storage(postgresql_url)) as storage:
        storage.migrate()
    role = f"reader_{make_url(postgresql_url).database}"
    engine = create_engine(make_url(postgresql_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'r'"))
        connection.execute(text(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"'))
        connection.execute(text(f'REVOKE DELETE ON jobbridge_counters FROM "{role}"'))
    try:
        reader = make_url(postgresql_url).set(username=role, password="r").render_as_string(hide_password=False)
        done = check(tmp_path, reader)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}"'))
            connection.execute(text(f'DROP ROLE "{role}"'))
        engine.dispose()
    assert done.exit_code == 4
    assert "error[store] store: a pod could not write to it:" in done.stdout
    assert "permission denied for table jobbridge_counters" in done.stdout


def test_clocks_that_are_apart_are_told(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a warning, since nothing depends on them."""

    def skewed(*_: object, **__: object) -> Storage:
        return open_storage(sqlite_url, options=Options(now=db_now() + 61_000_000))

    with closing(open_storage(sqlite_url)) as storage:
        storage.migrate()
    monkeypatch.setattr("bridge.assembly.open_storage", skewed)
    done = check(tmp_path, sqlite_url)
    assert done.exit_code == 0
    assert "warning[clock] store: its clock and this machine's are 61 s apart" in done.stdout
