"""Three pods on PostgreSQL and RabbitMQ, with a dashboard each, and some of everything in them to look at."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from bridge.config.model import AmqpSourceSection
from bridge.message import Message
from bridge.publish import publish_amqp
from tests.acceptance.cluster import Cluster
from tests.servers.processes import wait_until
from tests.servers.server import free_port

CONFIGURATION = """\
store: "{store}"
brokers: {{rabbit: "{broker}"}}
sources:
  orders: {{broker: rabbit, queue: {queue}}}
routes:
  - {{name: order-placed, from: orders, when: {{type: placed}}, handler: "tests.acceptance.handlers:work",
     retries: 0, title: "Order {{correlation_id}}", labels: {{shop: "header:shop"}}}}
  - {{name: order-retried, from: orders, when: {{type: retried}}, handler: "tests.acceptance.handlers:work",
     retries: 3, backoff: [1h]}}
{more}
recurring:
  nightly-report:
    {{cron: "0 3 * * *", timezone: Europe/Amsterdam, handler: "tests.acceptance.handlers:work", body: {{id: 1}}}}
pod: {{heartbeat: 1s, workers: 8, grace: 3s, name: "${{POD_NAME:-pod}}"}}
http:
  port: {port}
  dashboard: true
  payloads: show
  auth:
    olga: {{password: "o-secret", role: operator}}
    vic: {{password: "v-secret"}}
"""
MENDED = """\
  - {name: order-shipped, from: orders, when: {type: shipped}, handler: "tests.acceptance.handlers:work"}
"""
PODS = 3


class Dashboards(Cluster):
    """:param queue: of RabbitMQ, for this test alone."""

    def __init__(self, folder: Path, store: str, broker: str, queue: str) -> None:
        self.port = free_port()  # and the next two, which pods take as well
        self._fields = {"store": store, "broker": broker, "queue": queue, "port": self.port}
        folder.joinpath("bridge.yaml").write_text(CONFIGURATION.format(**self._fields, more=""))
        self._open(folder)
        self.storage.migrate()

    def start_all(self) -> None:
        """All pods, as processes of one parent, which take the ports from `port` on."""
        self.start(1, "--processes", str(PODS))
        assert wait_until(lambda: len(self.storage.live_servers()) >= PODS, 30), self.log()
        assert wait_until(lambda: all(map(self._serves, range(PODS))), 30), self.log()

    def mend(self) -> None:
        """Deploy a configuration that has a route for what had none."""
        for pod in list(self.pods):
            assert self.terminate(pod) == 0, self.log()
        assert "ASGI" not in self.log(10_000)
        self.folder.joinpath("bridge.yaml").write_text(CONFIGURATION.format(**self._fields, more=MENDED))
        self.start_all()

    def url(self, path: str = "/", pod: int = 0) -> str:
        return f"http://127.0.0.1:{self.port + pod}{path}"

    def send(self, messages: Iterable[Message]) -> None:
        """To RabbitMQ, confirmed."""
        section = self.configuration.sources["orders"]
        assert isinstance(section, AmqpSourceSection)
        publish_amqp(self.configuration.brokers["rabbit"], section, messages)

    def _serves(self, pod: int) -> bool:
        try:
            with urllib.request.urlopen(self.url("/livez", pod), timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def message(kind: str, correlation: str, **body: object) -> Message:
    return Message(json.dumps(body).encode(), (("shop", b"utrecht"),), correlation.encode(), type=kind)
