"""The dashboard in Chromium, on three live pods: every page and every act, in light and dark, wide and narrow."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from scheduler.counts import Counted
from scheduler.job import JobState
from tests.browser.chromium import Browser, Page, available
from tests.browser.cluster import Dashboards, message
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

HOSTILE = "<script>document.title='broken'</script><img/src=x/onerror=alert(1)>"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Give a Chromium."""
    if (why := available()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    with Browser(tmp_path / "chromium") as started:
        yield started
    shutil.rmtree(tmp_path / "chromium", ignore_errors=True)


@pytest.fixture
def pods(postgresql_url: str, rabbitmq: RabbitMQ, queue_name: str, tmp_path: Path) -> Iterator[Dashboards]:
    """Give three pods with jobs that succeeded, failed, wait and run, and a dead letter."""
    with Dashboards(tmp_path, postgresql_url, rabbitmq.url, queue_name) as cluster:
        cluster.start_all()
        orders = [message("placed", f"order-{number}", id=number) for number in range(60)]
        broken = [message("placed", f"broken-{number}", id=number, act="raise") for number in range(5)]
        others = [
            message("placed", "order-1", id=1, sleep=0.1),
            message("placed", HOSTILE, id=7, act="raise", note=HOSTILE)._replace(headers=(("shop", HOSTILE.encode()),)),
            message("retried", "later", id=1, act="raise"),
            message("placed", "long", id=1, act="cancellable"),
            message("shipped", "parcel-1", id=3),
        ]
        cluster.send([*orders, *orders[::2], *broken, *others])
        cluster.wait_for({"SUCCEEDED": 60, "FAILED": 6, "SCHEDULED": 1, "PROCESSING": 1})
        assert wait_until(lambda: cluster.storage.count_dead_letters() == 1, 20), cluster.log()
        count_earlier(cluster)
        yield cluster


def count_earlier(pods: Dashboards) -> None:
    """What an hour before looked like, for the charts."""
    minute = pods.storage.clock() // 60_000_000
    waves = [(k, 40 + 25 * math.sin(k / 9) + 6 * math.sin(k * 2.3)) for k in range(1, 60)]
    parts = {"created": 60.0, "duplicate": 21.0, "rejected": 0.0, "succeeded": 60.0, "retried": 3.0, "failed": 0.0}
    counted = [
        Counted(minute - k, "orders", "order-placed", outcome, int(wave * part))
        for k, wave in waves
        for outcome, part in parts.items()
    ]
    pods.storage.record(b"earlier".ljust(16), counted)


def ids(pods: Dashboards, correlation: str) -> str:
    (found,) = pods.storage.find_jobs(correlation)
    return str(found["id"])


def state(pods: Dashboards, correlation: str) -> str:
    (found,) = pods.storage.find_jobs(correlation)
    return str(found["state"])


def histories(pods: Dashboards, correlation: str) -> list[str]:
    return [f"{line['kind']} {line['detail']}" for line in pods.storage.job_events(UUID(ids(pods, correlation)).bytes)]


def every_page(pods: Dashboards) -> dict[str, str]:
    (letter,) = pods.storage.list_dead_letters()
    return {
        "overview": "/",
        "jobs": "/jobs?state=FAILED",
        "filtered": "/jobs?state=FAILED&error=as+asked",
        "matching": "/jobs/matching?verb=requeue&state=FAILED",
        "job": f"/jobs/{ids(pods, 'broken-1')}",
        "hostile": f"/jobs/{ids(pods, HOSTILE)}",
        "conflict": f"/jobs/{ids(pods, 'order-1')}",
        "running": f"/jobs/{ids(pods, 'long')}",
        "scheduled": f"/jobs/{ids(pods, 'later')}",
        "recurring": "/recurring",
        "sources": "/sources",
        "servers": "/servers",
        "dead-letters": "/dead-letters",
        "dead-letter": f"/dead-letters/{letter['id']}?try=1",
        "nothing": "/jobs?id=nobody",
        "missing": f"/jobs/{UUID(int=1)}",
    }


@pytest.mark.timeout(300)
def test_every_page_and_every_act(pods: Dashboards, browser: Browser, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("JOBBRIDGE_PICTURES", tmp_path))
    page = browser.page(user="olga", password="o-secret")
    look_at_all(pods, page, pictures)
    look_as_a_viewer(pods, browser)
    acts_on_jobs(pods, page)
    acts_on_all_that_match(pods, page)
    pause_and_resume(pods, page)
    trigger(pods, page)
    replay_after_mending(pods, page)
    expected = "404 (Not Found)"  # the page that is missing
    assert [complaint for complaint in page.complaints if expected not in complaint] == []


def look_at_all(pods: Dashboards, page: Page, pictures: Path) -> None:
    """Nothing is wider than the window, nothing of a message is run, and charts are drawn."""
    for name, path in every_page(pods).items():
        page.look(1280)
        page.go(pods.url(path, pod=1))
        for width, dark in ((1280, False), (390, False), (390, True), (1280, True)):
            page.look(width, dark=dark)
            if name == "overview":
                page.go(pods.url(path, pod=1))  # charts keep the colours that they were drawn with
                page.wait("document.querySelectorAll('.uplot canvas').length === 2")
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            if "JOBBRIDGE_PICTURES" in os.environ:
                page.picture(pictures / f"{name}-{width}-{'dark' if dark else 'light'}.png")
        assert page.run("document.title") != "broken", name
    page.look(1280)


def acts_on_jobs(pods: Dashboards, page: Page) -> None:
    """Requeue, run now, cancel and delete one job; the history says who did it."""
    page.go(pods.url("/jobs?state=FAILED"))
    page.enter("header input", "broken-3")
    assert "broken-3" in page.run("document.querySelector('h1').innerText")
    page.click("td.main a")
    page.click("form[action$='/requeue'] button")
    assert "Done." in page.text
    pods.wait_for({"SUCCEEDED": 60, "FAILED": 7, "SCHEDULED": 1, "PROCESSING": 1})
    assert any(line.startswith("REQUEUED by olga@127.0.0.1; it was FAILED") for line in histories(pods, "broken-3"))
    page.wait("document.body.innerText.includes('requeued')")
    for correlation, verb, becomes in (
        ("later", "run-now", "SCHEDULED"),
        ("long", "cancel", "DELETED"),
        ("broken-4", "delete", "DELETED"),
    ):
        page.go(pods.url(f"/jobs/{ids(pods, correlation)}"))
        page.click(f"form[action$='/{verb}'] button")
        assert wait_until(lambda c=correlation, b=becomes: state(pods, c) == b, 10), correlation
        assert "by olga@" in histories(pods, correlation)[-2 if verb == "run-now" else -1]


def acts_on_all_that_match(pods: Dashboards, page: Page) -> None:
    """The number is shown first; what fails again is not taken a second time."""
    before = pods.starts()["broken-0"]
    page.go(pods.url("/jobs?state=FAILED&error=as+asked"))
    page.click("a[href*='verb=requeue']")
    assert "6 jobs match" in page.text
    page.click("form.act button")
    assert "requeue: 6 done." in page.text
    assert wait_until(lambda: pods.starts()["broken-0"] == before + 1, 20), pods.log()
    pods.wait_for({"SUCCEEDED": 60, "FAILED": 6, "SCHEDULED": 1, "DELETED": 2})


def pause_and_resume(pods: Dashboards, page: Page) -> None:
    """A source and a route, in all pods."""
    for kind, name in (("sources", "orders"), ("routes", "order-placed")):
        page.go(pods.url("/sources", pod=2))
        page.click(f"form[action$='/{kind}/pause'] button")
        assert "paused by olga@127.0.0.1" in page.text
        assert [(one.name, one.by) for one in pods.storage.pauses()] == [(name, "olga@127.0.0.1")]
        page.go(pods.url())
        assert f"{name} is paused by olga@127.0.0.1" in page.text
        page.go(pods.url("/sources"))
        page.click(f"form[action$='/{kind}/resume'] button")
        assert pods.storage.pauses() == []


def trigger(pods: Dashboards, page: Page) -> None:
    """One job of a recurring one; and it is paused and resumed."""
    page.go(pods.url("/recurring"))
    page.click("form[action$='/trigger'] button")
    pods.wait_for({"SUCCEEDED": 61, "FAILED": 6, "SCHEDULED": 1, "DELETED": 2})
    page.go(pods.url("/recurring"))
    page.click("dd a")
    assert "by olga@127.0.0.1" in page.text
    for verb, other in (("pause", "resume"), ("resume", "pause")):
        page.go(pods.url("/recurring"))
        page.click(f"form[action$='/{verb}'] button")
        assert page.run(f"!!document.querySelector(\"form[action$='/{other}']\")")


def replay_after_mending(pods: Dashboards, page: Page) -> None:
    """A dead letter stays one until its route is there; then it becomes a job, and says who did it."""
    page.go(pods.url("/dead-letters"))
    page.click("td.main a")
    page.click("form[action$='/replay'] button")
    assert "stays a dead letter: no-route" in page.text
    pods.mend()
    page.go(pods.url("/dead-letters"))
    page.click("td.main a")
    page.click("a[href$='try=1']")
    assert "becomes a job of the route order-shipped" in page.text
    page.click("form[action$='/replay'] button")
    assert "It is a job now." in page.text
    assert wait_until(lambda: state(pods, "parcel-1") == JobState.SUCCEEDED, 20), pods.log()
    assert histories(pods, "parcel-1") == ["REPLAYED by olga@127.0.0.1; it was a dead letter: no-route"]
    assert pods.storage.count_dead_letters() == 0


def look_as_a_viewer(pods: Dashboards, browser: Browser) -> None:
    """There is nothing to press. What happens is on the overview within seconds, without a reload."""
    page = browser.page(user="vic", password="v-secret")
    pages = every_page(pods)
    for name in ("job", "recurring", "sources", "dead-letter"):
        page.go(pods.url(pages[name]))
        assert page.run("document.querySelectorAll('form[method=post]').length") == 0
    page.enter("header input", "order-1")
    assert "order-1" in page.run("document.querySelector('h1').innerText")
    page.go(pods.url())
    page.run("window.stays = true")
    pods.send([message("placed", "one-more", id=99, act="raise")])
    shown = json.dumps("7\nfailed for good")
    page.wait(f"document.querySelector('.tiles').innerText.includes({shown})")
    assert page.run("window.stays")
    assert [complaint for complaint in page.complaints if "404 (Not Found)" not in complaint] == []
    # It stays open: a stream must not keep its pod from ending.
