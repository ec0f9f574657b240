"""The installed command as a user has it: exit codes, what is on stdout, what is on stderr."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pika
import pytest

from bridge.dead_letters import dead_letter
from bridge.message import Message
from scheduler.job import JobState, job_id
from scheduler.job import new_job as requested
from scheduler.storage import Storage, open_storage
from scheduler.storage.records import Finish
from tests.servers.kafka import Kafka
from tests.servers.postgresql import PostgreSQL
from tests.servers.rabbitmq import RabbitMQ

COMMAND = Path(sys.executable).with_name("jobbridge")
CONFIGURATION = """\
store: sqlite:///jobs.db
sources:
  orders: {queue: orders}
routes:
  - {name: order-placed, from: orders, handler: "shop:place"}
"""
SHOP = "def place(order: dict) -> None:\n    pass\n"
STATES = ["SCHEDULED", "ENQUEUED", "PROCESSING", "SUCCEEDED", "FAILED", "DELETED"]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


class Shop:
    """A folder with a configuration, a handler and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bridge.yaml").write_text(CONFIGURATION)
        (folder / "shop.py").write_text(SHOP)

    def run(
        self, *arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBBRIDGE")}
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            env=kept | dict(environ or {}),
            timeout=60,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def json(self, *arguments: str) -> object:
        done = self.run(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def storage(self) -> Storage:
        return open_storage(f"sqlite:///{self.folder / 'jobs.db'}")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def filled(shop: Shop) -> Shop:
    """Two jobs, one of them finished, one conflict, one dead letter, one server."""
    storage = shop.storage()
    storage.migrate()
    owner = b"o" * 16
    storage.register(owner, host="pod-1", pid=7, interval_us=15_000_000, status="{}")
    waiting, ended = (
        requested(
            namespace="order-placed",
            correlation=correlation,
            handler="shop:place",
            body=b'{"id": 7}',
            route="order-placed",
            source="orders",
            headers='{"type": "order.placed"}',
        )
        for correlation in (b"order-7", b"order-8\x1b[31m")
    )
    storage.insert_if_absent([waiting], token=1)
    storage.insert_if_absent([ended], token=2, owner=owner, claimed=1)
    storage.finish([Finish(ended.id, 1, owner, JobState.SUCCEEDED, 10**12)])
    storage.insert_if_absent([waiting._replace(body=b"other", digest=b"d" * 16)], token=3)
    storage.insert_dead_letters([dead_letter("orders", Message(b"\xff\x00"), "missing-id", "no\tid")])
    storage.close()
    return shop


def cpu_seconds(*command: str | Path) -> float:
    """What a command uses at best, of three times."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    times = []
    for _ in range(3):
        before = used()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(used() - before)
    return min(times)


def test_help_answers_at_once(shop: Shop) -> None:
    """It costs little more than Click itself, which is a third of the 100 ms that it takes on an idle machine."""
    floor = cpu_seconds(sys.executable, "-c", "import click")
    assert cpu_seconds(COMMAND, "--help") < 2.5 * floor
    heavy = "print({'pydantic', 'sqlalchemy', 'rich', 'ruamel', 'pika', 'kafka', 'alembic'} & set(sys.modules))"
    loaded = [sys.executable, "-c", f"import sys, bridge.cli.main; {heavy}"]
    assert subprocess.run(loaded, capture_output=True, text=True).stdout == "set()\n"


def test_help_names_every_verb(shop: Shop) -> None:
    """Those that scripts count on, under these names."""
    shown = shop.run("--help").stdout
    for verb in (
        *("init", "run", "check", "test", "route", "publish", "status", "servers", "sources", "routes", "jobs"),
        *("dead-letters", "recurring", "migrate", "config", "help", "completion", "version"),
    ):
        assert f"\n  {verb} " in shown


def test_another_package_of_the_name_scheduler_is_explained(shop: Shop) -> None:
    """At the start of any verb, with where it is and what to do: in the place of an ImportError."""
    other = shop.folder / "other" / "scheduler"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('"""A scheduler."""\nfrom .job import Job\n')
    done = shop.run("status", environ={"PYTHONPATH": str(other.parent)})
    assert (done.returncode, done.stdout) == (1, "")
    assert f"({other}/__init__.py) is not the one of jobbridge" in done.stderr
    assert "pip uninstall scheduler" in done.stderr and done.stderr.count("\n") == 1


def test_wrong_usage_is_2(shop: Shop) -> None:
    for arguments in (["chek"], ["jobs", "list", "--stat", "FAILED"], ["jobs", "list", "--state", "LOST"], ["publish"]):
        done = shop.run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")


def test_check_shows_all_mistakes_on_stdout(shop: Shop) -> None:
    done = shop.run("check")
    assert (done.returncode, done.stdout) == (0, "0 errors, 0 warnings\n")
    (shop.folder / "bridge.yaml").write_text(CONFIGURATION.replace("shop:place", "shop:plaice") + "pods: {}\n")
    done = shop.run("check")
    assert done.returncode == 3
    assert done.stdout.splitlines() == [
        "bridge.yaml:5:49: error[bad-handler] routes[0].handler: shop:plaice: the module shop has no plaice",
        'bridge.yaml:6:1: error[unknown-key] pods: did you mean "pod"?',
        "2 errors, 0 warnings",
    ]
    found = json.loads(shop.run("check", "-o", "json").stdout)
    assert found[1] == {
        "file": "bridge.yaml",
        "line": 6,
        "column": 1,
        "severity": "error",
        "code": "unknown-key",
        "path": "pods",
        "message": 'did you mean "pod"?',
    }
    assert shop.run("check", "-o", "github").stdout.splitlines()[1] == (
        '::error file=bridge.yaml,line=6,col=1,title=unknown-key::pods: did you mean "pod"?'
    )


def test_warnings_fail_a_strict_check_alone(shop: Shop) -> None:
    (shop.folder / "bridge.yaml").write_text(CONFIGURATION.replace("routes:", "  idle: {queue: idle}\nroutes:"))
    assert shop.run("check").returncode == 0
    assert shop.run("check", "--strict").returncode == 3


def test_mistakes_stop_every_verb_with_3(shop: Shop) -> None:
    (shop.folder / "bridge.yaml").write_text(CONFIGURATION + "pods: {}\n")
    for verb in (["status"], ["run"], ["publish", "orders", "x"], ["jobs", "list"], ["config", "show"], ["migrate"]):
        done = shop.run(*verb)
        assert (done.returncode, done.stdout) == (3, "")
        assert 'bridge.yaml:6:1: error[unknown-key] pods: did you mean "pod"?' in done.stderr


def test_the_configuration_is_searched_for(shop: Shop) -> None:
    other = shop.folder / "other.yaml"
    other.write_text(CONFIGURATION + "pod: {name: other}\n")
    assert "name: other" in shop.run("config", "show", "-c", "other.yaml").stdout
    assert "name: other" in shop.run("config", "show", environ={"JOBBRIDGE_CONFIG": str(other)}).stdout
    (shop.folder / "config").mkdir()
    (shop.folder / "bridge.yaml").rename(shop.folder / "config" / "bridge.yaml")
    assert shop.run("config", "show").returncode == 0
    (shop.folder / "config" / "bridge.yaml").unlink()
    assert shop.run("config", "show").returncode == 3
    assert shop.run("config", "show", "-c", "nowhere.yaml").returncode == 3


def test_config_show_is_a_configuration_without_its_secrets(shop: Shop) -> None:
    (shop.folder / "bridge.yaml").write_text(
        CONFIGURATION + "brokers: {rabbit: {url: 'amqp://bob:${P}@h/', password: '${P}'}, other: 'amqp://bob:${P}@i'}\n"
    )
    environ = {"P": "CANARY"}
    done = shop.run("config", "show", environ=environ)
    assert done.returncode == 0 and "CANARY" not in done.stdout + done.stderr
    (shop.folder / "shown.yaml").write_text(done.stdout)
    again = shop.run("config", "show", "-c", "shown.yaml")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert done.stderr == again.stderr and done.stderr.startswith("digest ")
    assert json.loads(shop.run("config", "show", "-o", "json", environ=environ).stdout)["pod"]["workers"] == 20
    assert json.loads(shop.run("config", "schema").stdout)["properties"]["routes"]


def test_a_store_without_tables_says_what_to_do(shop: Shop) -> None:
    for verb in (["status"], ["servers"], ["jobs", "list"], ["dead-letters", "list"], ["jobs", "requeue", "x"]):
        done = shop.run(*verb)
        assert (done.returncode, done.stdout) == (4, "")
        assert "run `jobbridge migrate`" in done.stderr and done.stderr.count("\n") == 1
    assert shop.run("migrate").returncode == 0
    assert shop.run("status").returncode == 0


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bob:CANARY@127.0.0.1:1/jobs",
        "mariadb://bob:CANARY@127.0.0.1:1/jobs",
        "sqlite:////nowhere/at/all/jobs.db",
    ],
)
def test_a_store_out_of_reach_is_one_line_and_4(shop: Shop, url: str) -> None:
    (shop.folder / "bridge.yaml").write_text(CONFIGURATION.replace("sqlite:///jobs.db", url))
    for verb in (["status"], ["migrate"], ["publish", "orders", "x"], ["jobs", "show", "x"]):
        done = shop.run(*verb)
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr.startswith("jobbridge: the store ") and done.stderr.count("\n") == 1
        assert "CANARY" not in done.stderr


def test_store_only_verbs_import_no_handler_and_no_broker_client(filled: Shop) -> None:
    (filled.folder / "shop.py").write_text("raise SystemExit('imported')\n")
    for client in ("pika", "kafka"):
        (filled.folder / f"{client}.py").write_text("raise SystemExit('imported')\n")
    environ = {"PYTHONPATH": str(filled.folder)}
    for verb in (["status"], ["servers"], ["jobs", "list"], ["jobs", "show", "order-7"], ["dead-letters", "list"]):
        assert filled.run(*verb, environ=environ).returncode == 0
    assert filled.run("publish", "orders", "x", environ=environ).returncode == 0


def test_status_is_exactly_the_contract(filled: Shop) -> None:
    found = filled.json("status")
    assert isinstance(found, dict)
    assert list(found) == ["jobs", "dead_letters", "servers"]
    assert found["jobs"] == dict.fromkeys(STATES, 0) | {"ENQUEUED": 1, "SUCCEEDED": 1}
    assert found["dead_letters"] == 1
    [server] = found["servers"]
    assert list(server) == ["id", "number", "host", "pid", "started_at", "last_heartbeat", "master"]
    assert (server["number"], server["host"], server["pid"], server["master"]) == (1, "pod-1", 7, True)
    assert RFC3339.fullmatch(server["started_at"]) and RFC3339.fullmatch(server["last_heartbeat"])
    assert filled.run("status").stdout.splitlines()[:2] == ["SCHEDULED\t0", "ENQUEUED\t1"]


def test_a_pipe_gets_whole_values_without_a_header(filled: Shop) -> None:
    key = str(UUID(bytes=job_id("order-placed", b"order-7")))
    lines = filled.run("jobs", "list", "--state", "ENQUEUED").stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].split("\t")[:5] == [key, "ENQUEUED", "order-placed", "shop:place", "order-7"]
    whole = filled.run("jobs", "list").stdout + filled.run("jobs", "list", "-o", "table").stdout
    assert "\x1b" not in whole
    [line] = filled.run("jobs", "list", "--state", "enqueued", "-o", "ndjson").stdout.splitlines()
    assert json.loads(line)["id"] == key
    table = filled.run("jobs", "list", "-o", "table").stdout
    assert table.startswith("ID ") and key in table


def test_jobs_are_listed_by_what_they_are(filled: Shop) -> None:
    rows = filled.json("jobs", "list", "--route", "order-placed", "--handler", "shop:place", "--source", "orders")
    assert isinstance(rows, list) and len(rows) == 2
    row = next(row for row in rows if row["correlation_id"] == "order-7")
    assert {"id", "version", "state", "due_at", "attempts", "created_at", "namespace", "headers", "source"} <= set(row)
    assert row["headers"] == {"type": "order.placed"} and "body" not in row
    assert RFC3339.fullmatch(row["created_at"])
    assert len(filled.json("jobs", "list", "--limit", "1")) == 1  # type: ignore[arg-type]
    assert filled.json("jobs", "list", "--state", "FAILED") == []
    assert filled.run("jobs", "list", "--source", "ordres").returncode == 5
    assert filled.run("jobs", "list", "--route", "ordres").returncode == 5
    [conflict] = filled.json("jobs", "list", "--conflicts")  # type: ignore[misc]
    assert (conflict["correlation_id"], conflict["times"], conflict["state"]) == ("order-7", 1, "ENQUEUED")


def test_a_job_is_shown_by_its_id_and_by_its_correlation_id(filled: Shop) -> None:
    shown = filled.json("jobs", "show", "order-7")
    assert isinstance(shown, dict)
    assert (shown["body"], shown["state"]) == ('{"id": 7}', "ENQUEUED")
    assert [line["kind"] for line in shown["history"]] == ["CREATED", "CONFLICT"]
    assert filled.json("jobs", "show", shown["id"]) == shown
    ended = filled.json("jobs", "list", "--state", "SUCCEEDED")
    assert isinstance(ended, list)
    history = filled.json("jobs", "show", ended[0]["id"])["history"]  # type: ignore[index,call-overload]
    assert [line["kind"] for line in history] == ["CREATED", "STARTED", "SUCCEEDED"]
    text = filled.run("jobs", "show", ended[0]["id"]).stdout
    assert "correlation_id\torder-8\\x1b[31m" in text
    assert filled.run("jobs", "show", "order-9").returncode == 5


def test_jobs_are_requeued_and_deleted(filled: Shop) -> None:
    [ended] = filled.json("jobs", "list", "--state", "SUCCEEDED")  # type: ignore[misc]
    assert filled.run("jobs", "requeue", ended["id"]).stdout == f"{ended['id']}\tDONE\n"
    again = filled.run("jobs", "requeue", ended["id"])
    assert (again.returncode, again.stdout) == (1, f"{ended['id']}\tWRONG_STATE\n")
    assert "ENQUEUED" in again.stderr
    both = filled.run("jobs", "delete", "order-9", "order-7")
    assert both.returncode == 5 and both.stdout.splitlines()[0] == "order-9\tNOT_FOUND"
    assert both.stdout.splitlines()[1].endswith("\tDONE")
    assert [line["kind"] for line in filled.json("jobs", "show", "order-7")["history"]][-1] == "DELETED"  # type: ignore


def test_dead_letters_are_listed_shown_and_dropped(filled: Shop) -> None:
    [letter] = filled.json("dead-letters", "list", "--reason", "missing-id", "--source", "orders")  # type: ignore[misc]
    assert letter["size"] == 2 and "body" not in letter
    assert filled.json("dead-letters", "list", "--reason", "other") == []
    shown = filled.json("dead-letters", "show", letter["id"])
    assert isinstance(shown, dict)
    assert (shown["body"], shown["body_hex"], shown["reason"]) == (None, "ff00", "missing-id")
    assert "no\\tid" in filled.run("dead-letters", "list").stdout
    assert filled.run("dead-letters", "show", "nothing").returncode == 5
    dropped = filled.run("dead-letters", "drop", letter["id"], "nothing")
    assert dropped.returncode == 5 and dropped.stdout.splitlines()[0].split("\t")[:2] == [letter["id"], "DONE"]
    assert filled.json("dead-letters", "list") == []


def test_publish_to_the_local_queue(shop: Shop) -> None:
    done = shop.run(
        "publish", "orders", '{"id": 7}', "--correlation-id", "order-7", "-H", "type=order.placed", "--repeat", "2"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "2 messages published to orders\n")
    (shop.folder / "body").write_bytes(b"\xff\x00")
    assert shop.run("publish", "orders", "@body").returncode == 0
    assert shop.run("publish", "orders", "-", stdin=b"from stdin").returncode == 0
    assert shop.json("publish", "orders", "a\nb\n", "--ndjson") == {"source": "orders", "published": 2}
    storage = shop.storage()
    taken = storage.receive("orders", token=1, limit=10, max_bytes=10**6, visibility_us=10**9)
    assert [one.body for one in taken] == [b'{"id": 7}', b'{"id": 7}', b"\xff\x00", b"from stdin", b"a", b"b"]
    assert json.loads(taken[0].envelope) == {"headers": [["type", "order.placed"]], "correlation": "order-7"}
    storage.close()
    assert shop.run("publish", "ordres", "x").returncode == 5
    assert shop.run("publish", "orders", "x", "-H", "novalue").returncode == 2
    assert shop.run("publish", "orders", "@nowhere").returncode == 2
    assert shop.run("publish", "orders", "x", "--key", "k").returncode == 2


def test_a_broker_out_of_reach_is_4_and_shows_no_secret(shop: Shop) -> None:
    (shop.folder / "bridge.yaml").write_text(
        CONFIGURATION.replace("{queue: orders}", "{broker: rabbit, queue: orders}")
        + "brokers: {rabbit: 'amqp://bob:CANARY@127.0.0.1:1/'}\n"
    )
    shop.run("migrate")
    done = shop.run("publish", "orders", "x")
    assert (done.returncode, done.stdout) == (4, "")
    checked = shop.run("check", "--connect")
    assert checked.returncode == 4
    assert "error[unreachable] sources.orders: " in checked.stdout
    assert "CANARY" not in done.stderr + checked.stdout + checked.stderr


def test_version_says_where_it_runs_from(shop: Shop) -> None:
    found = shop.json("version")
    assert isinstance(found, dict)
    assert found["jobbridge"].count(".") == 2 and found["scheduler"].endswith("scheduler/__init__.py")


@pytest.mark.parametrize("name", ["bridge.yaml", "bridge.example.yaml"])
def test_the_shipped_configurations_have_no_mistakes(shop: Shop, name: str) -> None:
    shipped = Path(__file__).parents[2] / "config" / name
    done = shop.run("check", "--strict", "-c", str(shipped))
    assert (done.returncode, done.stdout) == (0, "0 errors, 0 warnings\n")


def test_publish_and_check_reach_rabbitmq(shop: Shop, rabbitmq: RabbitMQ, queue_name: str) -> None:
    (shop.folder / "bridge.yaml").write_text(
        CONFIGURATION.replace("{queue: orders}", f"{{broker: rabbit, queue: {queue_name}}}")
        + f"brokers: {{rabbit: '{rabbitmq.url}'}}\n"
    )
    shop.run("migrate")
    done = shop.run("publish", "orders", "x", "--correlation-id", "order-7", "--repeat", "3")
    assert (done.returncode, done.stderr) == (0, "3 messages published to orders\n")
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    taken = [connection.channel().basic_get(queue_name, auto_ack=True) for _ in range(4)]
    connection.close()
    assert [body for _, _, body in taken] == [b"x", b"x", b"x", None]
    assert taken[0][1].correlation_id == "order-7"
    checked = shop.run("check", "--connect")
    assert checked.returncode == 0
    assert "warning[broker] sources.orders: " in checked.stdout, "a quorum queue without a dead-letter target"
    assert shop.run("check", "--connect", "--strict").returncode == 3
    assert shop.run("publish", "orders", "x", "--key", "k").returncode == 2


def test_publish_and_check_reach_kafka(shop: Shop, kafka: Kafka, topic_name: str) -> None:
    (shop.folder / "bridge.yaml").write_text(
        CONFIGURATION.replace("{queue: orders}", f"{{broker: events, topic: {topic_name}, partitions: 1}}")
        + f"brokers: {{events: '{kafka.url}'}}\n"
    )
    shop.run("migrate")
    found = shop.json("publish", "orders", "a\nb\n", "--ndjson", "--key", "k", "-H", "type=order.placed")
    assert found == {"source": "orders", "published": 2}
    assert shop.run("check", "--connect").returncode == 0
    assert shop.run("publish", "orders", "x", "--routing-key", "k").returncode == 2


def test_a_database_that_is_not_there_is_4(shop: Shop, postgresql: PostgreSQL) -> None:
    url = postgresql.url.rpartition("/")[0] + "/nowhere"
    (shop.folder / "bridge.yaml").write_text(CONFIGURATION.replace("sqlite:///jobs.db", url))
    done = shop.run("status")
    assert (done.returncode, done.stdout) == (4, "")
    assert "nowhere" in done.stderr and done.stderr.count("\n") == 1


def test_a_pod_runs_jobs_and_ends_with_0(shop: Shop) -> None:
    """The whole way: published twice, run once, a bad one in the dead letters, mended, replayed."""
    shop.run("publish", "orders", '{"id": 7}', "--correlation-id", "order-7", "--repeat", "2")
    shop.run("publish", "orders", "[7]", "--correlation-id", "order-8")
    pod = subprocess.Popen([COMMAND, "run"], cwd=shop.folder, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = shop.json("status")
            if found["jobs"]["SUCCEEDED"] == 1 and found["dead_letters"] == 1:  # type: ignore[index,call-overload]
                break
        assert found["servers"][0]["master"] is True  # type: ignore[index,call-overload]
    finally:
        pod.terminate()
        _, log = pod.communicate(timeout=60)
    assert pod.returncode == 0, log
    assert all(json.loads(line)["ts"].endswith("Z") for line in log.splitlines())
    [letter] = shop.json("dead-letters", "list")  # type: ignore[misc]
    assert letter["correlation_id"] == "order-8"
    assert shop.run("dead-letters", "replay", letter["id"]).stdout == f"{letter['id']}\tSTILL_REJECTED\n"
    (shop.folder / "shop.py").write_text(SHOP.replace("dict", "list"))
    replayed = shop.run("dead-letters", "replay", letter["id"])
    assert (replayed.returncode, replayed.stdout) == (0, f"{letter['id']}\tCREATED\n")
    assert shop.json("dead-letters", "list") == []
    assert shop.json("jobs", "show", "order-8")["state"] == "ENQUEUED"  # type: ignore[index,call-overload]


def test_no_secret_and_no_body_is_in_any_output_of_a_pod(shop: Shop) -> None:
    """Secrets of a store, of brokers that are down, and bodies that are taken, refused and failed."""
    (shop.folder / "shop.py").write_text("def place(order: dict) -> None:\n    raise ValueError('no')\n")
    (shop.folder / "bridge.yaml").write_text(
        CONFIGURATION.replace("routes:", "  a: {broker: rabbit, queue: a}\n  b: {broker: events, topic: b}\nroutes:")
        + "brokers: {rabbit: 'amqp://bob:CANARY1@127.0.0.1:1/', events: {url: 'kafka://127.0.0.1:1', "
        "sasl: {username: bob, password: CANARY2}}}\ndefaults: {retries: 0}\n"
    )
    shop.run("publish", "orders", '{"a": "CANARY3"}', "--correlation-id", "order-7")
    shop.run("publish", "orders", "CANARY4", "--correlation-id", "order-8")
    pod = subprocess.Popen(
        [COMMAND, "run", "-v"], cwd=shop.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not shop.run("jobs", "list", "--state", "FAILED").stdout:
            pass
    finally:
        pod.terminate()
        output, _ = pod.communicate(timeout=60)
    assert "ValueError" in output
    assert "CANARY" not in output
