"""`route` and `test`: they say what ingestion would do, and why; and touch nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from bridge.assembly import assemble, decoders
from bridge.cli.main import cli
from bridge.config.load import load, read_tests
from bridge.dead_letters import dead_letter
from bridge.decode import Request
from bridge.message import Message
from scheduler.job import JobState
from scheduler.storage import Storage, open_storage
from scheduler.storage.records import Finish

CONFIGURATION = """\
store: sqlite:///jobs.db
brokers: {rabbit: "amqp://h/", events: "kafka://h:1"}
sources:
  orders: {broker: rabbit, queue: orders, max_message_bytes: 1KiB}
  payments: {broker: events, topic: [payments, refunds]}
  quiet: {queue: quiet, otherwise: ignore}
routes:
  - {name: placed, from: orders, when: {"header:type": order.placed, routing_key: orders}, handler: "shop_two:place"}
  - name: other
    from: orders
    when: {"header:type": "order.*"}
    handler: "shop_two:place"
    dedupe: {key: "body:/id", namespace: all}
    delay: 10m
    expires: 1h
    lock: "body:/lines/0/amount"
    title: "order {correlation_id}"
    timeout: 30s
  - {name: refunds, from: payments, when: {topic: refunds}, handler: "os:getcwd", dedupe: {key: key}, lock: key}
  - {name: payments, from: payments, handler: "os:getcwd", dedupe: {missing: allow}, schedule: {header: at}}
  - {name: quiet, from: quiet, when: {type: loud}, handler: "os:getcwd"}
"""
SHOP = """\
from pydantic import BaseModel

class Line(BaseModel):
    amount: float

class Order(BaseModel):
    id: int
    lines: list[Line] = []

def place(order: Order) -> None:
    raise AssertionError("no handler is run")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBBRIDGE_CONFIG", raising=False)
    Path("bridge.yaml").write_text(CONFIGURATION)
    Path("shop_two.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def storage() -> Iterator[Storage]:
    with contextlib.closing(open_storage("sqlite:///jobs.db")) as opened:
        opened.migrate()
        yield opened


def run(*arguments: str, given: str = "") -> Result:
    done = CliRunner().invoke(cli, arguments, input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


def routed(*arguments: str) -> dict[str, object]:
    done = run("route", *arguments, "-o", "json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_job_is_shown_as_ingestion_would_make_it() -> None:
    """Its id and digest are those of the decoder; the first route tells why it was passed over."""
    body = '{"id": 7, "lines": [{"amount": 2}]}'
    shown = routed("orders", body, "-H", "type=order.changed")
    configuration = load(None)
    decoder = decoders(configuration, assemble(configuration).rules)["orders"]
    made = decoder.decode(Message(body.encode(), (("type", b"order.changed"),)))
    assert isinstance(made, Request)
    assert shown == {
        "outcome": "job",
        "source": "orders",
        "route": "other",
        "handler": "shop_two:place",
        "namespace": "all",
        "correlation_id": "7",
        "id": str(UUID(bytes=made.job.id)),
        "digest": made.job.digest.hex(),
        "model": "Order",
        "body": '{"id":7,"lines":[{"amount":2.0}]}',
        "title": "order 7",
        "lock": "2",
        "retries": 10,
        "timeout": "30s",
        "due": "10m after it came",
        "expires": "1h after it came",
        "tried": [
            {"route": "placed", "matches": False, "because": "header:type is 'order.changed', not 'order.placed'"},
            {"route": "other", "matches": True, "because": "header:type is 'order.*'"},
        ],
    }


def test_a_message_is_as_its_broker_would_hand_it_over() -> None:
    """The queue is the routing key that is not given; a Kafka header is the correlation ID, its key a lock."""
    assert routed("orders", '{"id": 7}', "-H", "type=order.placed", "--correlation-id", "o")["route"] == "placed"
    refund = routed("payments", "{}", "--topic", "refunds", "--key", "customer-1")
    assert (refund["route"], refund["correlation_id"], refund["lock"]) == ("refunds", "customer-1", "customer-1")
    paid = routed("payments", "{}", "-H", "correlation-id=p-1", "-H", "at=2030-01-01T00:00:00+01:00")
    assert (paid["correlation_id"], paid["due"]) == ("p-1", "2029-12-31T23:00:00Z")
    assert (routed("payments", "{}")["route"], routed("payments", "{}")["id"]) == ("payments", None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{}", "-H", "type=order.x"], ("other", "missing-correlation-id", [], 2)),
        (['{"id": "x", "lines": [{}]}', "-H", "type=order.x"], ("other", "invalid-body", ["id", "lines.0.amount"], 2)),
        (['{"id": 7}', "--type", "order.placed"], (None, "no-route", [], 2)),
        (["x" * 2000], (None, "too-large", [], 0)),
    ],
)
def test_a_dead_letter_is_shown_with_its_reason(arguments: list[str], expected: tuple[object, ...]) -> None:
    """And with the fields that are wrong, the route that would have had it, and the routes that were tried."""
    shown = routed("orders", *arguments)
    tried = shown["tried"]
    assert isinstance(tried, list)
    assert shown["outcome"] == "dead-letter"
    assert (shown["route"], shown["reason"], shown["fields"], len(tried)) == expected


def test_a_message_that_no_route_takes_may_be_ignored() -> None:
    """By a source that says so."""
    assert routed("quiet", "x") == {
        "outcome": "ignored",
        "source": "quiet",
        "tried": [{"route": "quiet", "matches": False, "because": "type is missing, not 'loud'"}],
    }


def test_the_store_tells_what_stands_in_its_place(storage: Storage) -> None:
    """New, a duplicate and since when and until when, or a conflict; nothing is written by the look."""
    message = ["orders", '{"id": 7}', "-H", "type=order.x", "--store"]
    assert routed(*message)["store"] == "new"
    configuration = load(None)
    decoder = decoders(configuration, assemble(configuration).rules)["orders"]
    made = decoder.decode(Message(b'{"id": 7}', (("type", b"order.x"),)))
    assert isinstance(made, Request)
    owner = b"o" * 16
    storage.insert_if_absent([made.job._replace(delay_us=0, lock_key=None)], token=1, owner=owner, claimed=1)
    shown = routed(*message)
    assert (shown["store"], shown["state"], shown["forgotten_at"]) == ("duplicate", "PROCESSING", None)
    storage.finish([Finish(made.job.id, 1, owner, JobState.SUCCEEDED, 3_600_000_000)])
    shown = routed(*message)
    (row,) = storage.list_jobs()
    assert shown["state"] == "SUCCEEDED" and str(shown["since_at"]) < str(shown["forgotten_at"])
    assert routed("orders", '{"id": 7, "lines": []}', "-H", "type=order.x", "--store")["store"] == "conflict"
    assert storage.list_conflicts() == [] and storage.list_jobs() == [row]


def test_a_dead_letter_is_looked_at_again(storage: Storage) -> None:
    """As it came; one that was cut, or whose source is gone, can't be."""
    message = Message(b'{"id": 9}', (("type", b"order.x"),), routing_key="orders")
    letters = [
        dead_letter("orders", message, "no-route", ""),
        dead_letter("orders", message._replace(body=b"x" * 99), "no-route", "", keep=9),
        dead_letter("gone", message, "no-route", ""),
    ]
    storage.insert_dead_letters(letters)
    whole, cut, gone = (str(UUID(bytes=letter.id)) for letter in letters)
    assert routed("--from-dead-letter", whole)["correlation_id"] == "9"
    assert [run("route", "--from-dead-letter", name).exit_code for name in (cut, gone, "nowhere")] == [1, 1, 5]
    assert storage.count_dead_letters() == 3


def test_wrong_usage_of_route_is_told() -> None:
    """What only another kind of source has, both ways at once, and a source that is not there."""
    wrong = (["orders", "x", "--key", "k"], ["payments", "x", "--routing-key", "k"], [])
    for arguments in (*wrong, ["orders", "x", "--from-dead-letter", "y"], ["--from-dead-letter", "y", "--type", "t"]):
        assert run("route", *arguments).exit_code == 2
    assert run("route", "ordres", "x").exit_code == 5
    assert "routing_key" in run("route", "orders", "-", "-H", "type=order.placed", given="{}").stdout


TESTS = """\
tests:
  - name: an order is placed
    message: {source: orders, headers: {type: order.placed}, correlation_id: o-7, body: {id: 7}}
    expect: {route: placed, handler: "shop_two:place", correlation_id: o-7, due: at once}
  - name: a bad amount is a dead letter
    message: {source: orders, headers: {type: order.placed}, correlation_id: o-7, body: {id: 7, lines: [{amount: x}]}}
    expect: {outcome: dead-letter, reason: invalid-body, field: lines.0.amount}
"""


def results(*arguments: str) -> tuple[int, list[tuple[str, str]]]:
    done = run("test", *arguments, "-o", "json")
    return done.exit_code, [(row["result"], row["detail"]) for row in json.loads(done.stdout)]


def test_tests_of_the_configuration_and_beside_it_are_run(folder: Path) -> None:
    """All of them, or those of the files that are named; the configuration may be elsewhere."""
    (folder / "bridge.yaml").write_text(CONFIGURATION + TESTS)
    (folder / "more.test.yaml").write_text(
        "tests:\n  - {name: quiet, message: {source: quiet, body: x}, expect: {outcome: ignored}}\n"
        "  - {name: '<&>', message: {source: payments, topic: refunds, key: k, body: {}}, expect: {lock: k}}\n"
    )
    assert results() == (0, [("passed", "")] * 4)
    assert results("more.test.yaml") == (0, [("passed", "")] * 2)
    assert results("-c", str(folder / "bridge.yaml")) == (0, [("passed", "")] * 4)


def test_a_test_that_fails_says_what_is_otherwise(folder: Path) -> None:
    """In the table, in the XML, and by exit code 1."""
    (folder / "bridge.yaml").write_text(
        CONFIGURATION + TESTS.replace("o-7, due: at once", "o-8, due: at once").replace("lines.0.amount}", "id}")
    )
    code, ((first, why), (second, other)) = results("--junit", "out.xml")
    assert (code, first, second) == (1, "failed", "failed")
    assert why == "correlation_id is 'o-7', not 'o-8'"
    assert other.startswith("the fields that are wrong are ['lines.0.amount'], not 'id'; invalid-body: lines.0.amount:")
    suite = ElementTree.parse("out.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), len(suite.findall("testcase/failure"))) == ("2", "2", 2)
    assert run("test", "--junit", "nowhere/out.xml").exit_code == 1


def test_each_test_may_have_an_environment_of_its_own(folder: Path) -> None:
    """A configuration that needs one is told of by its tests that set none."""
    text = CONFIGURATION.replace("order.placed, routing_key", '"${KIND}", routing_key')
    with_env = TESTS.replace("    message", "    env: {KIND: order.placed}\n    message")
    (folder / "bridge.yaml").write_text(text + with_env)
    assert results() == (0, [("passed", "")] * 2)
    elsewhere = (
        "  - {name: of another kind, env: {KIND: x}, expect: {route: other}, "
        "message: {source: orders, headers: {type: order.placed}, body: {id: 7}}}\n"
    )
    (folder / "bridge.yaml").write_text(text + with_env + elsewhere)
    assert results() == (0, [("passed", "")] * 3)
    (folder / "bridge.yaml").write_text(text + TESTS)
    done = run("test")
    assert done.exit_code == 3 and "the environment has no KIND" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tests: [{name: t}]\n", "more.test.yaml:1:9: error[missing-key] tests[0].message: is required"),
        ("tests: []\nroutes: []\n", "more.test.yaml:2:1: error[unknown-key] routes: known here are tests"),
        (
            "tests: [{name: t, message: {source: order}}]\n",
            'more.test.yaml:1:37: error[unknown-source] tests[0].message.source: no source "order": did you',
        ),
        ("tests: [\n", "more.test.yaml:2:1: error[syntax]"),
    ],
)
def test_mistakes_in_tests_have_their_place(folder: Path, text: str, said: str) -> None:
    """Exit code 3, and no test is run."""
    (folder / "more.test.yaml").write_text(text)
    done = run("test")
    assert (done.exit_code, done.stdout) == (3, "")
    assert said in done.stderr


def test_no_tests_are_no_success(folder: Path) -> None:
    """So that a misspelt name of a file is seen; nor is a configuration that can't be read, or is not there."""
    done = run("test")
    assert done.exit_code == 1 and "there are no tests" in done.stderr
    assert run("test", "more.test.yaml").exit_code == 3
    (folder / "bridge.yaml").write_text("tests: [\n")
    assert run("test").exit_code == 3
    (folder / "bridge.yaml").unlink()
    assert run("test").exit_code == 3


def test_a_message_is_what_the_file_says(folder: Path) -> None:
    """Keys that begin with x- are data in it, bytes that are not UTF-8 can be written, half of a pair can't be sent."""
    (folder / "more.test.yaml").write_text(
        """\
tests:
  - name: x
    message: {source: orders, headers: {x-a: a, type: order.x}, body: {x-b: 1, id: 7}}
    expect: {route: other}
  - name: bytes
    message: {source: orders, headers: {type: order.placed}, correlation_id: "\\udcff", body: {id: 7}}
    expect: {correlation_id: "\\\\xff"}
  - {name: half, message: {source: orders, body: "\\ud800"}}
  - {name: half, message: {source: orders, body: {a: "\\ud800"}}}
"""
    )
    code, (first, second, *halves) = results()
    assert (code, first, second) == (1, ("passed", ""), ("passed", ""))
    assert halves == [("failed", "the message holds half of a surrogate pair, which no bytes stand for")] * 2
    found = read_tests(Path("bridge.yaml"), [Path("more.test.yaml")])[0].case.message
    assert (found.headers["x-a"], found.body) == ("a", {"x-b": 1, "id": 7})


def test_tests_are_no_part_of_what_pods_compare(folder: Path) -> None:
    """The digest is of what runs."""
    before = load(None).digest()
    (folder / "bridge.yaml").write_text(CONFIGURATION + TESTS)
    assert load(None).digest() == before and len(load(None).tests) == 2
