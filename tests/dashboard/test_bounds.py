"""However many jobs have finished, a page reads a bounded number of rows; by what PostgreSQL says it read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event

from bridge.dashboard.overview import COUNTED
from bridge.dashboard.views import SWEPT
from scheduler.storage.pages import LOOKED
from tests.bench.pages import PAGES, dashboard, fill
from tests.dashboard.client import Client

ROWS = 200_000
MOST = COUNTED + 2 * SWEPT + 2 * LOOKED
"""What one page may read, with its counts."""


def rows_read(plan: dict[str, Any]) -> int:
    """Rows that scans gave, and those that they threw away."""
    own = 0
    if "Relation Name" in plan:
        seen = (
            plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        )
        own = int(seen * plan["Actual Loops"])
    return own + sum(rows_read(part) for part in plan.get("Plans", ()))


def test_pages_read_a_bounded_number_of_rows(postgresql_url: str, tmp_path: Path) -> None:
    """No count and no offset over what has finished, on any page."""
    app, storage = dashboard(tmp_path, postgresql_url)
    fill(storage, ROWS)
    client, sent = Client(app), list[tuple[str, Any]]()

    def note(_: Connection, __: object, statement: str, parameters: object, *___: object) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(storage.engine, "before_cursor_execute", note)
    read: dict[str, int] = {}
    for name, path in PAGES.items():
        sent.clear()
        assert client.get(path).status == 200
        statements = list(sent)
        assert not [statement for statement, _ in statements if "OFFSET" in statement]
        with storage.engine.connect() as connection:
            plans = [
                connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar()
                for statement, parameters in statements
            ]
        read[name] = sum(rows_read((json.loads(p) if isinstance(p, str) else p)[0]["Plan"]) for p in plans)
    event.remove(storage.engine, "before_cursor_execute", note)
    app.stop()
    assert {name: rows for name, rows in read.items() if rows > MOST} == {}
    assert MOST < ROWS / 4, "as many failed, so that a count without a bound reads more"
