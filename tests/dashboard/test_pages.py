"""Pages and facts: hostile content stays text, payloads stay masked, lists go on, numbers keep their bounds."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest

from bridge.dashboard.payload import masked, shown_body
from scheduler.job import JobState, headers_json
from scheduler.storage import pages
from scheduler.storage.pages import HEAD
from tests.conformance.stores import claimed, failure, job, put, some_jobs
from tests.dashboard.client import Client
from tests.dashboard.conftest import PEOPLE, Seen, add_letter

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}${7*7}"
SHOWN = PEOPLE + ", payloads: show"


class Tags(HTMLParser):
    """Finds what no template of ours has."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[object] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        ours = str(given.get("src", "/static/")).startswith("/static/")
        if not ours or (tag == "script" and "src" not in given) or any(name.startswith("on") for name in given):
            self.foreign.append((tag, attrs))


def letter_path(seen: Seen, name: str = "lost") -> str:
    (found,) = (one for one in seen.storage.list_dead_letters() if one["correlation_id"] == name)
    return f"/dead-letters/{found['id']}"


def job_path(correlation: str | bytes) -> str:
    return f"/jobs/{UUID(bytes=job(correlation).id)}"


def hostile(seen: Seen) -> list[str]:
    """Puts it wherever a message or a handler can; the pages that show it."""
    held = claimed(seen.storage, 0)
    put(
        seen.storage,
        [job(HOSTILE, headers=json.dumps({HOSTILE: HOSTILE}), body=json.dumps({HOSTILE: HOSTILE}).encode())],
    )
    (held,) = (one for one in seen.storage.claim(b"h" * 16, ["h"], 50) if one.correlation_id == HOSTILE)
    seen.storage.finish([failure(held, detail=f"Traceback\n  {HOSTILE}\nValueError: {HOSTILE}")])
    seen.storage.note(held.key, "LOG", HOSTILE)
    add_letter(seen.storage, "x" + HOSTILE, body=HOSTILE.encode(), reason="invalid-json", detail=HOSTILE)
    seen.storage.pause("source", "s", HOSTILE)
    seen.storage.pause_recurring("beat", HOSTILE)
    query = "".join(f"%{c:02x}" for c in HOSTILE.encode())
    return [
        "/",
        "/jobs?state=FAILED",
        f"/jobs?state=FAILED&route={query}&error={query}&since={query}&after={query}&source={query}&handler={query}",
        f"/jobs?id={query}",
        f"/jobs?state={query}",
        f"/jobs/matching?verb=requeue&state=FAILED&error={query}",
        f"/jobs/matching?verb={query}",
        job_path(HOSTILE),
        "/recurring",
        "/sources",
        "/servers",
        "/dead-letters",
        f"/dead-letters?reason={query}",
        letter_path(seen, "x" + HOSTILE) + "?try=1",
        f"/jobs?result={query}",
        f"/{query}",
    ]


@pytest.mark.parametrize("seen", [SHOWN], indirect=True)
def test_hostile_content_is_text_on_every_page(seen: Seen) -> None:
    """Tags, attributes and template expressions in IDs, headers, bodies, errors, logs, names and addresses."""
    shown = 0
    for path in hostile(seen):
        text = seen.client().get(path).text
        tags = Tags()
        tags.feed(text)
        assert tags.foreign == [], path
        assert '49"' not in html.unescape(text) and "$49" not in text, path
        shown += HOSTILE in html.unescape(text)
    assert shown >= 9


@pytest.mark.parametrize("seen", [SHOWN, PEOPLE], indirect=True)
def test_a_long_id_and_a_large_body_are_cut(seen: Seen) -> None:
    """A million characters and ten megabytes: a page stays a page."""
    put(seen.storage, [job("i" * 1_000_000, body=b"[" + b"1," * 5_000_000 + b"1]")])
    add_letter(seen.storage, "large", body=b"\xff" * 4_000_000, size=10_000_000)
    for path in ("/jobs?state=ENQUEUED", job_path("i" * 1_000_000), letter_path(seen, "large") + "?try=1"):
        for prefix in ("", "/api"):
            answer = seen.client().get(prefix + path)
            assert (answer.status, len(answer.body) < 400_000) == (200, True), (prefix, path, len(answer.body))
    assert "1,000,000 bytes, of which 255 are kept" in seen.client().get(job_path("i" * 1_000_000)).text
    assert "only the head of its body was kept" in seen.client().get(letter_path(seen, "large") + "?try=1").text
    assert seen.client().get("/jobs?id=" + "i" * 1_000_000).status == 200


@pytest.mark.parametrize("seen", [SHOWN, PEOPLE], indirect=True)
def test_bytes_that_are_no_text_are_shown_all_the_same(seen: Seen) -> None:
    """NUL and what is no UTF-8, in IDs, headers and bodies."""
    headers = headers_json({"a\udcff": "\udcff\0"})
    put(seen.storage, [job(b"\xff\0", headers=headers, body=b"\xff\0")])
    envelope = json.dumps({"correlation": "\udcff", "headers": [["h\udcff", "\udcff"]]})
    add_letter(seen.storage, "odd", body=b"\xff\0", envelope=envelope)
    for path in ("/jobs?state=ENQUEUED", job_path(b"\xff\0"), letter_path(seen, "odd") + "?try=1"):
        assert [seen.client().get(prefix + path).status for prefix in ("", "/api")] == [200, 200]
    assert "\\udcff" in seen.client().get(job_path(b"\xff\0")).text


def test_payloads_are_masked_unless_the_configuration_shows_them(seen: Seen) -> None:
    """By default keys and types; neither in pages nor in facts is a value of a body or a header."""
    for path in (job_path("waits"), f"/api{job_path('waits')}", letter_path(seen), f"/api{letter_path(seen)}"):
        text = html.unescape(seen.client().get(path).text)
        assert "4111-secret" not in text and "h-secret" not in text and "12.5" not in text
        assert "(number)" in text
    assert '"card": "(text)"' in html.unescape(seen.client().get(job_path("waits")).text)


@pytest.mark.parametrize(("seen", "visible"), [(SHOWN, True), (PEOPLE + ", payloads: hide", False)], indirect=["seen"])
def test_payloads_are_shown_or_hidden_as_the_configuration_says(seen: Seen, visible: bool) -> None:
    text = seen.client().get(job_path("waits")).text
    assert ("4111-secret" in text, "h-secret" in text, "card" in text) == (visible, visible, visible)
    assert ("http.payloads hides it" in text) is not visible


@pytest.mark.parametrize(
    ("body", "forms"),
    [
        (b'{"a": 1}', {"json", "text", "hex"}),
        (b"plain \xc3\xbc", {"text", "hex"}),
        (b"\xff\x00", {"hex"}),
        (b"[" * 100_000, {"text", "hex"}),
        (b"1" * 10_000, {"text", "hex"}),
    ],
)
def test_a_body_is_shown_in_the_forms_that_it_has(body: bytes, forms: set[str]) -> None:
    """However deep it is nested and however long its numbers are."""
    assert {"json", "text", "hex"} & shown_body(body[:HEAD], len(body), "show").keys() == forms
    assert "json" in shown_body(body, len(body), "keys") or "why" in shown_body(body[:HEAD], len(body), "keys")


def test_a_cut_character_at_the_end_of_the_head_does_not_hide_the_text() -> None:
    assert shown_body("aü".encode()[:-1], 10, "show")["text"] == "a"
    assert shown_body(None, None, "show") == {"why": "it was dropped when the job succeeded"}
    assert masked({"a": [1, None, True, "x", {"b": 2.5}]}) == {
        "a": ["(number)", None, "(true or false)", "(text)", {"b": "(number)"}]
    }


def walk(client: Client, path: str, key: str) -> list[str]:
    """The ids of all pages of a list."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = client.get(f"{path}&after={after}").json
        assert len(page[key]) <= 50
        found += [one["id"] for one in page[key]]
        after = page["after"]
    return found


@pytest.mark.parametrize("state", ["FAILED", "ENQUEUED"])
def test_pages_show_each_row_once(seen: Seen, state: str) -> None:
    """Also where many have one time, as what one statement wrote."""
    put(seen.storage, some_jobs(170, "many"))
    if state == "FAILED":
        seen.storage.finish([failure(held) for held in seen.storage.claim(b"p" * 16, ["h"], 171)])
    ids = walk(seen.client(), f"/api/jobs?state={state}", "jobs")
    assert len(ids) == len(set(ids)) == (174 if state == "FAILED" else 171)


def test_a_filter_looks_through_a_part_and_goes_on(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is far down is found by going on; no page looks at all."""
    monkeypatch.setattr(pages, "LOOKED", 100)
    put(seen.storage, [job("far", route="rare"), *some_jobs(250, "many")])
    held = seen.storage.claim(b"p" * 16, ["h"], 252)
    seen.storage.finish([failure(one) for one in held if one.correlation_id == "far"])
    seen.storage.finish([failure(one) for one in held if one.correlation_id != "far"])
    first = seen.client().get("/api/jobs?state=FAILED&route=rare").json
    assert (first["jobs"], first["filled"]) == ([], False)
    assert walk(seen.client(), "/api/jobs?state=FAILED&route=rare", "jobs") == [str(UUID(bytes=job("far").id))]
    assert "Go on looking" in seen.client().get("/jobs?state=FAILED&route=rare").text


@pytest.mark.parametrize(
    "query",
    [
        "after=0-zz", "after=" + "9" * 19 + "-" + "0" * 32, "after=1-2-" + "0" * 32, "after=-1-" + "0" * 32, "since=-5",
        "since=99999999999999d", "since=nan", "state=NOPE", "route=%00", "error=%25_%5C", "began=1e9", "window=99h",
        "id=%00", "id=%ed%a0%80", "state=FAILED&state=DELETED", "&".join(f"x{k}=1" for k in range(300)),
    ],
)  # fmt: skip
def test_no_query_breaks_a_page(seen: Seen, query: str) -> None:
    for path in ("/", "/jobs", "/dead-letters", "/api/jobs", "/api/overview"):
        assert seen.client().get(f"{path}?{query}").status == 200
    assert seen.client().get(f"/jobs/matching?verb=requeue&{query}").status in (200, 404)


@pytest.mark.parametrize("began", ["-1", "0", "1e9", "99999999999999999999", "x", ""])
def test_a_begin_that_nobody_was_shown_keeps_its_bounds(seen: Seen, began: str) -> None:
    """An act can't be told to take what comes later: at most what is there now."""
    told = seen.client().post("/api/jobs/matching", {"verb": "requeue", "state": "FAILED", "began": began})
    assert told.status == 200
    assert seen.storage.clock() >= 0


def test_facts_and_acts_are_documented(seen: Seen) -> None:
    """The document names every path; what it names answers in JSON."""
    document = seen.client().get("/api/openapi.json").json
    assert document["openapi"] == "3.1.0"
    served = {route.path for route in seen.app._app._app.routes if route.path.startswith("/api/")}
    documented = {f"/api{path}" for path in document["paths"]}
    assert {re.sub(r":\w+}", "}", path) for path in served} - documented == {"/api/openapi.json"}
    for path, verbs in document["paths"].items():
        if "get" in verbs and "{" not in path:
            assert isinstance(seen.client().get(f"/api{path}?verb=requeue").json, dict)


def test_acts_answer_what_became_of_them(seen: Seen) -> None:
    """As a word and, where it was not done, why; under the name of who asked."""
    client, path = seen.client(), job_path("job-0")
    assert client.post(f"/api{path}/cancel").json == {
        "result": "WRONG_STATE",
        "detail": "not possible while it is FAILED",
    }
    assert client.post(f"/api{path}/requeue").json == {"result": "DONE", "detail": ""}
    told = client.get(f"/api{path}").json
    assert [line["detail"] for line in told["history"] if line["kind"] == "REQUEUED"] == [
        "by olga@10.1.2.3; it was FAILED"
    ]
    assert client.post(f"/api{path}/explode").status == 404
    assert client.post(f"/api/jobs/{UUID(int=5)}/requeue").status == 404
    matching = {"verb": "requeue", "state": "FAILED", "error": "traceback"}
    assert client.get("/api/jobs/matching?verb=requeue&state=FAILED&error=traceback").json["number"] == 2
    assert client.ask(
        "POST",
        "/api/jobs/matching",
        json.dumps(matching).encode(),
        {"content_type": "application/json", "sec_fetch_site": "same-origin"},
    ).json == {"result": "DONE", "detail": "requeue: 2 done"}
    assert seen.storage.count_by_state()[JobState.ENQUEUED] == 4
    for verb, state in (("requeue", "SUCCEEDED"), ("cancel", "FAILED"), ("explode", "FAILED")):
        assert client.post("/api/jobs/matching", {"verb": verb, "state": state}).status == 404


@pytest.mark.parametrize("body", [b"\xff", b"a=" + b"x" * 70_000, b"&".join([b"a=1"] * 60)])
def test_a_form_that_is_none_is_refused(seen: Seen, body: bytes) -> None:
    headers = {"sec_fetch_site": "same-origin", "content_type": "application/x-www-form-urlencoded"}
    assert seen.client().ask("POST", "/api/sources/pause", body, headers).status in (400, 413)
    for text in (b"[1]", b"{", b"[" * 60_000):
        headers["content_type"] = "application/json"
        assert seen.client().ask("POST", "/api/sources/pause", text, headers).status == 400
    assert seen.storage.pauses() == []


def test_a_dead_letter_is_tried_replayed_and_dropped(seen: Seen) -> None:
    """A dry run changes nothing; a second replay finds the job; the job's history says where it came from."""
    client, path = seen.client(), letter_path(seen)
    tried = client.get(f"/api{path}?try=1").json["tried"]
    assert (tried["outcome"], tried["route"]) == ("CREATED", "r")
    assert len(seen.storage.list_dead_letters()) == 1
    assert client.post(f"/api{path}/replay").json["result"] == "CREATED"
    (line,) = seen.storage.job_events(job("lost").id)
    assert line["detail"] == "by olga@10.1.2.3; it was a dead letter: invalid-json"
    assert client.post(f"/api{path}/replay").status == 404
    add_letter(seen.storage, "lost", body=b'{"id": 7, "amount": 12.5}')
    assert client.get(f"/api{letter_path(seen)}?try=1").json["tried"]["outcome"] == "DUPLICATE"
    assert client.post(f"/api{letter_path(seen)}/replay").json["result"] == "DUPLICATE"
    add_letter(seen.storage, "lost", body=b'{"id": 8, "amount": 1}')
    assert "another body" in client.get(f"/api{letter_path(seen)}?try=1").json["tried"]["detail"]
    assert client.post(f"/api{letter_path(seen)}/replay").status == 409
    assert client.post(f"/api{letter_path(seen)}/drop").json["result"] == "DONE"


def test_below_a_path_of_another_program_all_links_stay_below_it(seen: Seen) -> None:
    """Pages, forms, files, streams, redirects and the document."""
    client = seen.client(root="/ops/jobs")
    for path in ("/", "/jobs?state=FAILED", job_path("job-0"), "/recurring", "/sources", "/servers", "/dead-letters"):
        text = client.get(path).text
        links = re.findall(r'(?:href|action|src|hx-get|hx-sse:connect)="([^"]*)"', text)
        assert links and [link for link in links if not link.startswith("/ops/jobs/")] == []
    assert client.get("/static/dashboard.css").status == 200
    assert client.post("/sources/pause", {"name": "s"}).headers["location"] == "/ops/jobs/sources?result=DONE"
    assert client.get("/api/openapi.json").json["servers"] == [{"url": "/ops/jobs/api"}]
    assert client.get("/api/nowhere").json["result"] == "ERROR"


def test_a_store_that_is_away_is_a_page_that_says_so(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    from scheduler.storage import StoreUnavailable

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("connection refused")

    monkeypatch.setattr(seen.app._views.storage, "connection", away)
    assert "the store does not answer: connection refused" in seen.client().get("/jobs").text
    assert seen.client().get("/api/jobs").status == 503


def test_streams_share_one_look_and_end_with_the_program(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody watches: nobody looks. Ten watch: one looks for all of them; a stop ends them all."""
    from bridge.dashboard import live, serving

    monkeypatch.setattr(live, "SECONDS", 0.05)
    looks: list[str] = []

    def look(_: object, __: object, window: str) -> dict[str, object]:
        looks.append(window)
        if len(looks) == 5:
            seen.app.live.stop()
        return {"problems": []}

    monkeypatch.setattr(serving, "overview", look)
    seen.client().get("/jobs")
    assert looks == []
    answers = seen.client().many("/live", 10)
    assert looks == ["1h"] * 5
    assert {answer.status for answer in answers} == {200}
    assert all(answer.headers["content-type"].startswith("text/event-stream") for answer in answers)
    assert all(1 <= answer.text.count("\n\n") <= 5 for answer in answers)
