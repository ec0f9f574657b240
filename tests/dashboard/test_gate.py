"""Who may come in, and for what, on every route that there is."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from uuid import UUID

import pytest
from starlette.routing import Mount, Route

from bridge.dashboard import gate
from tests.dashboard.conftest import OLGA, PEOPLE, VIC, Seen


def routes(seen: Seen, method: str) -> Iterator[str]:
    """The paths of the program's own table of routes that take this method."""
    inner = seen.app._app._app
    for route in inner.routes:
        if isinstance(route, Route) and method in (route.methods or ()):
            path = re.sub(r"{id:?\w*}", str(UUID(bytes=b"i" * 16)), route.path)
            yield re.sub(r"{verb}", "pause", path)
        elif isinstance(route, Mount) and method == "GET":
            yield route.path + "/dashboard.css"


def everything(seen: Seen) -> object:
    """All that an act could have changed."""
    jobs = [(row["id"], row["version"]) for row in seen.storage.list_jobs(limit=100)]
    rest = (seen.storage.list_dead_letters(), seen.storage.pauses(), seen.storage.list_recurring())
    return jobs, rest


def test_there_are_as_many_posts_as_the_table_says(seen: Seen) -> None:
    """So that the tests below look at what there is."""
    assert len(list(routes(seen, "POST"))) == 12
    assert {"/jobs/matching", "/api/jobs/matching"} <= set(routes(seen, "POST"))


@pytest.mark.parametrize("user", ["", "olga:wrong", "nobody:o-secret", "olga", ":", "vic:o-secret"])
def test_nobody_comes_in_without_name_and_password(seen: Seen, user: str) -> None:
    """Not to a page, a fact, a file, a stream or an act; and a browser is asked for them."""
    client, before = seen.client(user), everything(seen)
    answers = [client.get(path) for path in routes(seen, "GET")] + [client.post(path) for path in routes(seen, "POST")]
    assert {answer.status for answer in answers} == {401}
    assert all(answer.headers["www-authenticate"].startswith("Basic ") for answer in answers)
    assert {answer.text for answer in answers} == {"who are you?"}
    assert everything(seen) == before


@pytest.mark.parametrize(
    "authorization", ["Basic", "Basic %%%", "Basic /w==", "Bearer b2xnYTpvLXNlY3JldA==", "x" * 5000]
)
def test_a_header_that_is_none_lets_nobody_in(seen: Seen, authorization: str) -> None:
    assert seen.client("").get("/", authorization=authorization).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "origin": "http://localhost:8080"},
        {"sec_fetch_site": "", "origin": "http://evil.example"},
        {"sec_fetch_site": "", "origin": "http://localhost:9090"},
        {"sec_fetch_site": "", "origin": "null"},
        {"sec_fetch_site": "", "origin": "http://localhost:8080.evil.example"},
    ],
)
def test_no_other_sites_page_acts(seen: Seen, headers: dict[str, str]) -> None:
    """Whichever header the browser sends, on every act."""
    before = everything(seen)
    answers = [seen.client().post(path, {"name": "s"}, **headers) for path in routes(seen, "POST")]
    assert [answer.status for answer in answers] == [403] * 12
    assert everything(seen) == before


def test_a_viewer_looks_and_does_not_act(seen: Seen) -> None:
    """On every act, in whichever form it comes; and no page shows a button."""
    before, client = everything(seen), seen.client(VIC)
    for content_type in ("application/x-www-form-urlencoded", "application/json"):
        answers = [client.post(path, {"name": "s"}, content_type=content_type) for path in routes(seen, "POST")]
        assert [answer.status for answer in answers] == [403] * 12
    assert everything(seen) == before
    for path in ("/", "/jobs?state=FAILED", "/sources", "/recurring", "/dead-letters"):
        answer = client.get(path)
        assert (answer.status, "<button>" in answer.text.replace("<button>Filter</button>", "")) == (200, False)


@pytest.mark.parametrize(
    "headers", [{}, {"sec_fetch_site": "", "origin": "http://localhost:8080"}, {"sec_fetch_site": ""}]
)
def test_an_operator_acts_from_a_page_of_its_own_and_from_a_program(seen: Seen, headers: dict[str, str]) -> None:
    """Browsers send no Sec-Fetch-Site over plain HTTP; programs send neither header."""
    assert seen.client().post("/sources/pause", {"name": "s"}, **headers).status == 303
    assert [(one.name, one.by) for one in seen.storage.pauses()] == [("s", "olga@10.1.2.3")]


@pytest.mark.parametrize("seen", [PEOPLE + ", read_only: true", ", read_only: true"], indirect=True)
def test_where_all_is_read_only_there_is_no_act(seen: Seen) -> None:
    assert list(routes(seen, "POST")) == []
    for user in (OLGA, VIC):
        assert seen.client(user).post("/sources/pause", {"name": "s"}).status == 403
        assert 'method="post"' not in seen.client(user).get("/sources").text
    assert "post" not in str(seen.client().get("/api/openapi.json").json["paths"].values())
    assert seen.storage.pauses() == []


@pytest.mark.parametrize("seen", ["", ", auth: none", ", hosts: [jobs.example.com]"], indirect=True)
def test_a_name_that_is_not_its_own_is_refused(seen: Seen) -> None:
    """A page whose name was made to resolve to this pod reads and does nothing."""
    for host in ("evil.example", "evil.example:8080", "", "localhost.evil.example", "[::2]"):
        client = seen.client("", host=host)
        assert [client.get("/api/jobs").status, client.post("/sources/pause", {"name": "s"}).status] == [400, 400]
    for host in ("localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"):
        assert seen.client("", host=host).get("/api/jobs").status == 200
    given = seen.configuration.http is not None and bool(seen.configuration.http.hosts)
    assert seen.client("", host="jobs.example.com").get("/").status == (200 if given else 400)


def test_every_answer_forbids_scripts_of_others_and_to_be_framed(seen: Seen) -> None:
    """Pages, facts, files, refusals and errors."""
    answers = [
        *(seen.client().get(path) for path in routes(seen, "GET") if path != "/live"),
        seen.client("").get("/"),
        seen.client().get("/nowhere"),
        seen.client().post("/sources/pause"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store" or "etag" in answer.headers


def test_no_page_has_a_script_or_a_style_in_itself(seen: Seen) -> None:
    """What the policy forbids is not there either."""
    for path in routes(seen, "GET"):
        text = seen.client().get(path).text if path != "/live" and "/api" not in path else ""
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|javascript:|hx-on", text) == []


def test_a_refused_login_is_logged_without_its_password(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        seen.client("olga:guess-1").get("/")
    assert "10.1.2.3" in caplog.text and "guess-1" not in caplog.text


def test_passwords_are_compared_in_constant_time(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no such name, and by nothing else."""
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(gate.secrets, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    assert isinstance(seen.app._app, gate.Gate)
    for user in (OLGA, "nobody:o-secret"):
        assert seen.client(user).get("/").status == 401
    assert [given for given, _ in compared] == [b"o-secret", b"o-secret"]
