"""What the command says of the store: how to migrate it, whose jobs nobody can run, and what people call its jobs."""

from __future__ import annotations

import json
import sqlite3

import pytest

from tests.acceptance.test_command import CONFIGURATION, Shop, filled, shop

__all__ = ["filled", "shop"]

TITLED = CONFIGURATION.replace(
    '"shop:place"}', '"shop:place", title: "order {correlation_id}", labels: {type: "header:type", x: "header:x"}}'
)


def test_migrate_prints_the_statements_and_changes_nothing(shop: Shop) -> None:
    done = shop.run("migrate", "--sql")
    assert done.returncode == 0
    assert not (shop.folder / "jobs.db").exists()
    with sqlite3.connect(shop.folder / "jobs.db") as connection:
        connection.executescript(done.stdout)
    connection.close()
    for arguments in ([], ["--sql"]):
        done = shop.run("migrate", *arguments)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "nothing to do: the store's tables fit this version\n"
    assert shop.run("status").returncode == 0


def test_migrate_says_when_it_has_migrated(shop: Shop) -> None:
    assert shop.run("migrate").stderr == "the store's tables fit this version now\n"


def test_check_names_stored_jobs_that_nobody_can_run(filled: Shop) -> None:
    """Those that failed already are a hint."""
    done = filled.run("check", "--against-store")
    assert (done.returncode, done.stdout) == (0, "0 errors, 0 warnings\n")
    (filled.folder / "other.py").write_text("def take(order: dict) -> None: ...\n")
    (filled.folder / "bridge.yaml").write_text(CONFIGURATION.replace("shop:place", "other:take"))
    assert filled.run("check").returncode == 0
    done = filled.run("check", "--against-store")
    assert done.returncode == 3
    assert done.stdout == (
        "bridge.yaml:1:8: error[unknown-handler-in-store] store: 1 ENQUEUED job of the handler "
        '"shop:place", which is not known here: name it in a route or under handlers\n1 error, 0 warnings\n'
    )
    (filled.folder / "bridge.yaml").write_text(
        CONFIGURATION.replace("shop:place", "other:take") + 'handlers: ["shop:place"]\n'
    )
    assert filled.run("check", "--against-store").returncode == 0
    with sqlite3.connect(filled.folder / "jobs.db") as connection:
        connection.execute("UPDATE jobbridge_jobs SET state = 'FAILED', handler = 'gone' WHERE state = 'ENQUEUED'")
    connection.close()
    done = filled.run("check", "--against-store", "-o", "json")
    assert [(one["code"], one["severity"]) for one in json.loads(done.stdout)] == [
        ("unknown-handler-in-store", "warning")
    ]
    assert done.returncode == 0
    assert filled.run("check", "--against-store", "--strict").returncode == 3


def test_check_against_a_store_that_is_away_or_too_old_is_4(shop: Shop) -> None:
    assert "run `jobbridge migrate`" in shop.run("check", "--against-store").stdout
    (shop.folder / "bridge.yaml").write_text(CONFIGURATION.replace("sqlite:///jobs.db", "postgresql://127.0.0.1:1/x"))
    for arguments in (["--against-store"], ["--against-store", "--connect"]):
        done = shop.run("check", *arguments)
        assert done.returncode == 4
        assert done.stdout.count("error[store] store: the store is not reachable") == 1


def test_a_job_has_the_title_and_the_labels_of_its_route(filled: Shop) -> None:
    (filled.folder / "bridge.yaml").write_text(TITLED)
    found = filled.json("jobs", "show", "order-7")
    assert isinstance(found, dict)
    assert (found["title"], found["labels"]) == ("order order-7", {"type": "order.placed"})
    listed = filled.json("jobs", "list", "--state", "ENQUEUED")
    assert isinstance(listed, list)
    assert [(job["title"], job["labels"]) for job in listed] == [("order order-7", {"type": "order.placed"})]
    assert "title\torder order-7\n" in filled.run("jobs", "show", "order-7").stdout


@pytest.mark.parametrize("configuration", [CONFIGURATION, TITLED], ids=["without", "with"])
def test_a_table_has_titles_where_a_route_has_one_and_tsv_never(filled: Shop, configuration: str) -> None:
    (filled.folder / "bridge.yaml").write_text(configuration)
    assert {line.count("\t") for line in filled.run("jobs", "list").stdout.splitlines()} == {8}
    table = filled.run("jobs", "list", "-o", "table").stdout
    assert ("TITLE" in table, "order order-7" in table) == ((configuration is TITLED),) * 2
