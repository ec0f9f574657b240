"""A user's small project, whose tests pytest runs as the user would: each of the helpers, from the installed plugin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.config.model import Configuration
from bridge.testing import Bridge

CONFIGURATION = """
store: postgresql://nobody.invalid/jobs
brokers:
  rabbit: amqp://nobody.invalid/
  events: kafka://nobody.invalid:9092
sources:
  orders: {broker: rabbit, queue: orders, exchange: shop, routing_keys: ["order.#"]}
  payments: {broker: events, topic: payments, group: bridge}
  demo: {queue: somewhere}
defaults: {retries: 2, backoff: [1m]}
routes:
  - {name: order-placed, from: orders, when: {"header:type": order.placed}, handler: "handlers:place"}
  - {name: order-typed, from: orders, when: {type: typed}, handler: "handlers:audit"}
  - {name: order-keyed, from: orders, when: {routing_key: "order.*"}, handler: "handlers:fails"}
  - {name: paid, from: payments, when: {topic: payments}, handler: "handlers:pay", dedupe: {key: key}}
  - {name: demo, from: demo, handler: "handlers:note", dedupe: {key: message_id}, expires: 1h, delay: 10m}
filters: [handlers]
recurring:
  nightly: {every: 1d, handler: "handlers:nightly"}
"""

HANDLERS = """
from pydantic import BaseModel
from scheduler import JobContext, on

DONE, TOLD = [], []

class Order(BaseModel):
    id: int

def place(order: Order) -> None:
    DONE.append(order.id)

async def audit(body: dict, context: JobContext) -> str:
    DONE.append((body["id"], context.job.attempt, context.cancelled))
    return context.job.correlation_id

class Refused(Exception):
    pass

def fails(body: dict) -> None:
    DONE.append("fails")
    raise Refused(body["why"])

def pay(body: dict, context: JobContext) -> None:
    DONE.append("paid")
    context.publish("demo", {"paid": body["id"]})

def note(body: bytes) -> None:
    DONE.append(body.decode())

def nightly() -> None:
    DONE.append("nightly")

@on("created")
def tell(job, outcome) -> None:
    TOLD.append(outcome.name)
"""

TESTS = '''
import pytest
import handlers
from handlers import DONE, TOLD, Refused


@pytest.fixture(autouse=True)
def clean():
    DONE.clear()
    TOLD.clear()


def placed(jobbridge, number, **more):
    jobbridge.publish("orders", {"id": number}, headers={"type": "order.placed"}, **more)


def test_orders(jobbridge):
    with jobbridge.recording() as seen:
        placed(jobbridge, 7, correlation_id="order-7", times=2)
        placed(jobbridge, 8, correlation_id="order-7")
        jobbridge.publish("orders", "no JSON", correlation_id="x", headers={"type": "order.placed"})
    assert (seen.created, seen.duplicates, seen.conflicts, seen.rejected, seen.ignored) == (1, 1, 1, 1, 0)
    with jobbridge.recording() as seen:
        placed(jobbridge, 7, correlation_id="order-7")
    assert (seen.created, seen.duplicates) == (0, 1)
    done = jobbridge.run_until_idle()
    assert done.succeeded == 1 and [ran.job.route for ran in done.jobs] == ["order-placed"]
    jobbridge.assert_job(route="order-placed", state="SUCCEEDED", body={"id": 7}, handler=handlers.place)
    jobbridge.refute_job(body={"id": 8})
    (letter,) = jobbridge.dead_letters
    assert (letter["source"], letter["reason"], letter["body"]) == ("orders", "invalid-json", b"no JSON")
    assert DONE == [7] and "NEW" in TOLD


def test_the_same_poison_twice_is_one_dead_letter_as_on_amqp(jobbridge):
    jobbridge.publish("orders", {}, correlation_id="x", type="none", routing_key="else", times=2)
    jobbridge.run_until_idle()
    assert [letter["reason"] for letter in jobbridge.dead_letters] == ["no-route"]


def test_errors_and_retries(jobbridge):
    jobbridge.publish("orders", {"why": "closed"}, correlation_id="1", routing_key="order.new")
    with pytest.raises(Refused, match="closed"):
        jobbridge.run_until_idle()
    with pytest.raises(AssertionError) as told:
        jobbridge.assert_job(state="FAILED")
    assert "'1' of order-keyed: state is 'SCHEDULED' (handlers.Refused: closed)" in str(told.value)
    jobbridge.advance("59s")
    assert jobbridge.run_until_idle().jobs == []
    for retried in (1, 0):
        jobbridge.advance("1m")
        assert jobbridge.run_until_idle(raises=False).retried == retried
    jobbridge.assert_job(state="FAILED", correlation_id="1")


def test_a_record_is_a_record(jobbridge):
    """Its key, its topic, its headers; and what its handler publishes arrives, later, unless it expires."""
    jobbridge.publish("payments", {"id": 1}, key="k", headers={"correlation-id": "c"})
    assert jobbridge.run_until_idle().succeeded == 1
    jobbridge.assert_job(route="paid", correlation_id="k")
    jobbridge.advance("10m")
    jobbridge.run_until_idle()
    assert DONE == ["paid", '{"paid":1}']


def test_what_runs_late_expires(jobbridge):
    jobbridge.publish("demo", b"x", message_id="m")
    jobbridge.run_until_idle()
    jobbridge.assert_job(route="demo", state="SCHEDULED", body=b"x")
    jobbridge.advance("2h")
    jobbridge.run_until_idle()
    jobbridge.assert_job(route="demo", state="DELETED")
    assert set(DONE) <= {"nightly"}  # which is due within these hours, late in the day


def test_recurring(jobbridge):
    jobbridge.advance("1d")
    assert jobbridge.run_until_idle().succeeded == 1
    assert DONE == ["nightly"]


def test_a_coroutine_and_a_call(jobbridge):
    jobbridge.publish("orders", {"id": 1}, correlation_id="1", type="typed")
    jobbridge.run_until_idle()
    assert jobbridge.call("handlers:audit", {"id": 2}, attempt=2, cancelled=True, correlation_id="c") == "c"
    assert DONE == [(1, 1, False), (2, 2, True)]


def test_deaths(jobbridge):
    with jobbridge.recording() as seen:
        placed(jobbridge, 1, correlation_id="1")
        jobbridge.kill_pod()
        jobbridge.lose_commit_reply()
        assert jobbridge.run_until_idle().succeeded == 1
        placed(jobbridge, 1, correlation_id="1")
    assert (seen.created, seen.duplicates) == (1, 1)
    assert DONE == [1, 1]


@pytest.mark.jobbridge("other.yaml")
def test_another_configuration(jobbridge):
    with pytest.raises(ValueError, match="no source is called 'orders': configured are only"):
        jobbridge.publish("orders", 1)
    with jobbridge.recording() as seen:
        jobbridge.publish("only", 1, correlation_id="1", type="else")
    assert seen.ignored == 1
'''

OTHER = """
sources: {only: {queue: only, otherwise: ignore}}
routes: [{name: r, from: only, when: {type: t}, handler: "handlers:note"}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("bridge.yaml", CONFIGURATION), ("handlers.py", HANDLERS), ("other.yaml", OTHER)):
        (tmp_path / name).write_text(text)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_shop.py").write_text(TESTS)
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    """What pytest says, whose warnings are errors."""
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "JOBBRIDGE"))}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=100)
    return done.stdout + done.stderr


def test_a_users_tests_run(project: Path) -> None:
    said = run(project, "tests")
    assert "9 passed" in said and "failed" not in said, said


def test_the_configuration_and_the_store_may_be_others(project: Path, sqlite_url: str) -> None:
    """By the option, and by a fixture of the user's own; a mistake in the file is told with its place."""
    (project / "pytest.ini").write_text("[pytest]\njobbridge_config = deploy/jobs.yaml\n")
    (project / "deploy").mkdir()
    (project / "bridge.yaml").rename(project / "deploy" / "jobs.yaml")
    own = f"import pytest\n@pytest.fixture\ndef jobbridge_store():\n    return {sqlite_url!r}\n"
    (project / "conftest.py").write_text(own)
    assert "1 passed" in run(project, "-k", "test_orders")
    assert Path(sqlite_url.removeprefix("sqlite:///")).stat().st_size > 0
    (project / "other.yaml").write_text("sources: {}\nrouts: []\n")
    said = run(project, "-k", "another")
    assert "ConfigurationError" in said and 'did you mean "routes"?' in said


def test_the_plugin_imports_nothing_until_it_is_used() -> None:
    """A user whose tests don't use it does not pay for it."""
    code = (
        "import sys, pytest; before = set(sys.modules); import bridge.pytest_plugin\n"
        "print(sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "['bridge', 'bridge.pytest_plugin']"


DONE: list[object] = []


def keep(body: dict[str, int]) -> None:
    """Remember what ran."""
    DONE.append(body["id"])


def test_each_store_may_be_used(store_url: str) -> None:
    """With its clock moved, its replies lost and its pod killed."""
    DONE.clear()
    route = {"name": "r", "from": "s", "handler": "tests.integration.test_pytest_plugin:keep", "delay": "1h"}
    configuration = Configuration.model_validate({"sources": {"s": {"queue": "s"}}, "routes": [route]})
    with Bridge(configuration, store_url) as bridge:
        with bridge.recording() as seen:
            bridge.lose_commit_reply()
            for number in (1, 2, 1):
                bridge.publish("s", {"id": number}, correlation_id=str(number))
        assert (seen.created, seen.duplicates, bridge._faults.losing) == (2, 1, {"results"})
        assert bridge.run_until_idle().jobs == []
        bridge.advance("1h")
        bridge.kill_pod()
        assert bridge.run_until_idle().succeeded == 2
        bridge.refute_job(state="SCHEDULED")
        assert bridge.assert_job(body={"id": 1})["rescues"] == 1
    assert sorted(map(str, DONE)) == ["1", "1", "2"]


def test_a_source_that_operators_pause_keeps_its_messages(sqlite_url: str) -> None:
    configuration = Configuration.model_validate({"sources": {"s": {"queue": "s", "otherwise": "ignore"}}})
    with Bridge(configuration, sqlite_url) as bridge:
        bridge.storage.pause("source", "s", by="me")
        with bridge.recording() as seen:
            bridge.publish("s", 1)
        assert seen.ignored == 0
        with pytest.raises(AssertionError, match="messages that are not ingested yet: 1"):
            bridge.assert_job(state="ENQUEUED")
        bridge.storage.resume("source", "s")
        with bridge.recording() as seen:
            pass
        assert seen.ignored == 1
