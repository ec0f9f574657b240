"""A secret stands in every place that may hold one, and shows in nothing that the command or a pod says or keeps."""

import json
import re
import subprocess
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest

from bridge.config.load import load
from bridge.config.model import LocalSourceSection
from bridge.message import Message
from bridge.sources import connect
from bridge.sources.local import publish_local
from scheduler.storage import StoreUnavailable, open_storage
from tests.acceptance.test_command import COMMAND, SHOP, Shop
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import free_port

CANARY = re.compile("c4n4ry[^ \"']*", re.IGNORECASE)
ENVIRON = {
    "MQ": "C4n4ry-mq:/@%",
    "DB": "C4n4ry-db:/@%",
    "SASL": "C4n4ry-sasl",
    "URL": "amqp://bob:C4n4ry-url@127.0.0.1:1/",
}

CONFIGURATION = """\
store: {store}
brokers:
  keys: {{url: "amqp://127.0.0.1:1/v", username: bob, password: "${{MQ}}"}}
  userinfo: "amqp://bob:${{MQ}}@127.0.0.1:1/"
  whole: "${{URL}}"
  file: {{url: "amqp://127.0.0.1:1/", username: bob, password: "${{file:{folder}/password}}"}}
  clear: "amqp://bob:C4n4ry-clear@127.0.0.1:1/"
  tls: {{url: "amqps://bob:${{MQ}}@127.0.0.1:1/", tls: {{cert: "{folder}/cert.pem", key: "{folder}/key.pem"}}}}
  live: {{url: "{live}", username: guest, password: "${{MQ}}"}}
  kafka: {{url: "kafka://127.0.0.1:1", sasl: {{mechanism: SCRAM-SHA-256, username: bob, password: "${{SASL}}"}}}}
  kafka-userinfo: "kafka://bob:${{MQ}}@127.0.0.1:1"
  kafka-tls: {{url: "kafka://127.0.0.1:1", username: bob, password: "${{MQ}}", tls: {{cert: "{folder}/cert.pem"}}}}
sources:
  local: {{queue: local}}
{sources}
routes:
  - {{name: placed, from: local, handler: "shop:place"}}
pod: {{heartbeat: 2s, grace: 1s, heartbeat_file: "{folder}/alive"}}
"""
BODY = "b0dy-of-a-person"
BODIES = (f'{{"name": "{BODY}"}}', f'{{"name": "{BODY}", "fail": 1}}', f'"{BODY}"', f"{{{BODY}")
"""One that is good, one whose job fails, two that can't become jobs."""
FAILING = """
def place(order: dict) -> None:
    if "fail" in order:
        raise ValueError("no such order")
"""
AMQP = ("keys", "userinfo", "whole", "file", "clear", "tls", "live")
KAFKA = ("kafka", "kafka-userinfo", "kafka-tls")


def leaked(*texts: str) -> list[str]:
    return [found[0] for text in texts for found in CANARY.finditer(text)]


@pytest.fixture
def secretive(tmp_path: Path, rabbitmq: RabbitMQ) -> Shop:
    """A shop with brokers that are down, one that refuses the password, and files that hold more secrets."""
    shop = Shop(tmp_path)
    for name in ("password", "cert.pem", "key.pem"):
        (tmp_path / name).write_text(f"-----BEGIN PRIVATE KEY-----\nC4n4ry-{name}\n-----END PRIVATE KEY-----\n")
    configure(shop, rabbitmq, "sqlite:///jobs.db")
    (tmp_path / "shop.py").write_text(SHOP)
    return shop


def configure(shop: Shop, rabbitmq: RabbitMQ, store: str) -> None:
    live = re.sub(r"//[^@/]*@", "//", rabbitmq.url)
    sources = [f"  {name}: {{broker: {name}, queue: {name}}}" for name in AMQP]
    sources += [f"  {name}: {{broker: {name}, topic: {name}}}" for name in KAFKA]
    text = CONFIGURATION.format(store=store, folder=shop.folder, live=live, sources="\n".join(sources))
    (shop.folder / "bridge.yaml").write_text(text)


def test_the_command_shows_none(secretive: Shop) -> None:
    """`check`, `check --connect`, `config show` in every form, `publish` to each broker, and a file with mistakes."""
    shop = secretive
    said: list[str] = []
    verbs = [["check"], ["check", "-o", "json"], ["check", "--connect"], ["check", "--connect", "-o", "github"]]
    verbs += [["config", "show", "-o", form] for form in ("yaml", "json", "tsv", "table")]
    verbs += [["publish", name, "{}"] for name in ("tls", "live", "file", "kafka-userinfo")]
    for verb in verbs:
        done = shop.run(*verb, environ=ENVIRON)
        said += [done.stdout, done.stderr]
        assert done.returncode == (4 if "--connect" in verb or "publish" in verb else 0), done
    whole = (shop.folder / "bridge.yaml").read_text()
    for good, bad in (("username: bob", "usrname: bob"), ("127.0.0.1:1/", "127.0.0.1:x/"), ("SCRAM", "SCREAM")):
        (shop.folder / "bridge.yaml").write_text(whole.replace(good, bad))
        done = shop.run("check", environ=ENVIRON)
        assert done.returncode == 3
        said += [done.stdout, done.stderr]
    assert leaked(*said) == []


def test_a_pod_shows_and_keeps_none(secretive: Shop) -> None:
    """In its log at its loudest, while all brokers refuse it; in its status; on its pages and in its heartbeat file; in
    the dead letters. Nor does any of them but the store show what messages hold."""
    shop, port = secretive, free_port()
    (shop.folder / "shop.py").write_text(FAILING)
    with (shop.folder / "bridge.yaml").open("a") as file:
        file.write(f"http: {{port: {port}}}\n")
    storage = shop.storage()
    storage.migrate()
    messages = [Message(body.encode(), correlation=bytes([number])) for number, body in enumerate(BODIES)]
    publish_local(storage, LocalSourceSection(queue="local"), messages)
    storage.close()
    log = shop.folder / "pod.log"
    with log.open("wb") as file:
        pod = subprocess.Popen(
            [COMMAND, "run", "-v"], cwd=shop.folder, env=ENVIRON, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        letters: list[object] = []
        assert wait_until(lambda: bool(letters.extend(listed(shop)) or letters), 40), log.read_text()
        told = [*(f"source {name}: not attached" for name in (*AMQP, *KAFKA)), "job succeeded", "job failed"]
        assert wait_until(lambda: all(one in log.read_text() for one in told), 40), log.read_text()
        listing = shop.run("servers", "-o", "json", environ=ENVIRON).stdout
        assert wait_until(lambda: 'jobbridge_dead_letters{source="local"} 2.0' in page(port, "metrics"), 20)
        pages = {name: page(port, name) for name in ("livez", "livez?verbose", "readyz", "readyz?verbose", "metrics")}
        live, ready = (shop.run("health", how, environ=ENVIRON) for how in ("--live", "--ready"))
        alive = (shop.folder / "alive").read_text()
        with shop.storage().engine.connect() as connection:
            status = str(connection.exec_driver_sql("SELECT status FROM jobbridge_servers").scalar_one())
    finally:
        pod.terminate()
        pod.wait(60)
    with shop.storage().engine.connect() as connection:
        kept = [
            str(row)
            for table in ("dead_letters", "servers", "jobs", "job_events")
            for row in connection.exec_driver_sql(f"SELECT * FROM jobbridge_{table}")
        ]
    shown = [log.read_text(), listing, alive, status, live.stderr, ready.stderr, *pages.values()]
    assert leaked(json.dumps(letters), *kept, *shown) == []
    assert BODY in "".join(kept)
    assert BODY not in "".join(shown)
    assert (live.returncode, ready.returncode, "source kafka: " in ready.stderr) == (0, 1, True)
    assert "[+] source local\n[-] source keys: " in pages["readyz?verbose"]
    assert 'jobbridge_source_up{source="keys"} 0.0' in pages["metrics"]
    of_server = json.loads(status)
    assert of_server["handlers"] == ["shop:place"]
    assert of_server["memory"] > 20_000_000
    assert abs(of_server["clock_offset"]) < 5
    assert of_server["sources"]["local"]["counts"] == {"created": 2, "rejected": 2}
    assert (of_server["sources"]["local"]["attached"], of_server["sources"]["keys"]["attached"]) == (True, False)


def page(port: int, name: str) -> str:
    """Read a page, whatever its status."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/{name}")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def listed(shop: Shop) -> list[object]:
    found = shop.run("dead-letters", "list", "-o", "json", environ=ENVIRON)
    return list(json.loads(found.stdout)) if found.returncode == 0 else []


def test_no_repr_and_no_error_of_a_store_shows_any() -> None:
    for url in ("postgresql://bob:C4n4ry@127.0.0.1:1/jobs", "mysql://bob:C4n4ry@127.0.0.1:1/jobs"):
        storage = open_storage(url)
        with pytest.raises(StoreUnavailable) as caught:
            storage.count_dead_letters()
        chain = [repr(caught.value), str(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__)]
        assert leaked(repr(storage.engine), str(storage.engine.url), repr(vars(storage)), *chain) == []
        storage.close()


def test_no_repr_of_a_configuration_and_no_client_error_shows_any(secretive: Shop) -> None:
    configuration = load(secretive.folder / "bridge.yaml", environ=ENVIRON)
    said = [repr(configuration), str(configuration), json.dumps(configuration.shown()), configuration.model_dump_json()]
    for broker in configuration.brokers.values():
        secrets = [
            broker.password.get_secret_value() if broker.password else None,
            broker.sasl.password.get_secret_value() if broker.sasl else None,
        ]
        said += [repr(broker), connect.describe(broker)]
        said += [connect.one_line(ValueError(f"refused {secret}!"), broker) for secret in secrets if secret]
        said += [connect.one_line(OSError(5, f"no {secret!r}"), broker) for secret in secrets if secret]
        said += [
            connect.one_line(OSError(5, f"at //{quote(secret, safe='')}@"), broker) for secret in secrets if secret
        ]
    assert leaked(*said) == []


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_store_out_of_reach_shows_none(secretive: Shop, kind: str, rabbitmq: RabbitMQ) -> None:
    for store in (
        f'{{url: "{kind}://127.0.0.1:1/jobs", username: bob, password: "${{DB}}"}}',
        f'"{kind}://bob:${{DB}}@127.0.0.1:1/jobs"',
    ):
        configure(secretive, rabbitmq, store)
        for verb in (["status"], ["migrate"], ["publish", "local", "{}"]):
            done = secretive.run(*verb, environ=ENVIRON)
            assert done.returncode == 4, done
            assert leaked(done.stdout, done.stderr) == []
