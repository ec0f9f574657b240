"""RabbitMQ: a node of its own, with its own cookie, epmd and database."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pika
import pika.exceptions

from tests.servers.server import Server, accepts_connections, find_program, free_port

# The scripts of the package itself; those in the path change the user.
_PROGRAMS = "/usr/lib/rabbitmq/bin"

# Erlang starts an epmd that it finds missing as a daemon, in the root directory, and nobody ends that one. So the
# node's own is there first: a child that dies with the other processes of this server's directory.
_EPMD_THEN_SERVER = 'epmd & until epmd -names >/dev/null 2>&1; do sleep 0.02; done; exec "$0"'


@dataclass(frozen=True)
class QueueDepth:
    """What a queue holds: messages that wait, and messages that a consumer has and did not acknowledge."""

    ready: int
    unacked: int


class RabbitMQ(Server):
    """Root may run it. Reached as guest on loopback."""

    name: ClassVar[str] = "RabbitMQ"
    start_seconds: ClassVar[float] = 90

    def __init__(self, run_directory: Path | None = None, *, directory: Path | None = None, port: int = 0) -> None:
        super().__init__(run_directory, directory=directory, port=port)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def prepare(self) -> None:
        find_program("rabbitmq-server", _PROGRAMS)
        find_program("epmd")
        (self.directory / "plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").touch()
        (self.directory / "distribution.port").write_text(str(free_port()))
        (self.directory / "epmd.port").write_text(str(free_port()))

    def command(self) -> list[str]:
        return ["/bin/sh", "-c", _EPMD_THEN_SERVER, find_program("rabbitmq-server", _PROGRAMS)]

    def environment(self) -> dict[str, str]:
        place = str(self.directory)
        return super().environment() | {
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": (self.directory / "distribution.port").read_text(),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": (self.directory / "epmd.port").read_text(),
            "RABBITMQ_MNESIA_BASE": f"{place}/mnesia",
            "RABBITMQ_LOG_BASE": f"{place}/log",
            "RABBITMQ_LOGS": "-",  # to the standard output, and so to server.log
            "RABBITMQ_PID_FILE": f"{place}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{place}/plugins",
            "RABBITMQ_CONFIG_FILE": f"{place}/rabbitmq",
        }

    def is_ready(self) -> bool:
        if not accepts_connections(self.port):
            return False
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def stop(self) -> None:
        """Ask the node to stop, then end its epmd."""
        self.thaw()
        if (self.directory / "pid").exists():
            self.control("stop", str(self.directory / "pid"))
        self.kill()

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl; half a second a call."""
        return self.run([find_program("rabbitmqctl", _PROGRAMS), "--quiet", *arguments])

    def queues(self) -> dict[str, QueueDepth]:
        """Give the depth of every queue, of the broker's own knowledge."""
        rows = json.loads(
            self.control("--formatter", "json", "list_queues", "name", "messages_ready", "messages_unacknowledged")
        )
        return {
            row["name"]: QueueDepth(ready=row["messages_ready"], unacked=row["messages_unacknowledged"]) for row in rows
        }

    def set_memory_watermark(self, fraction: float) -> None:
        """Raise the memory alarm with a tiny fraction: publishers are blocked. 0.4 ends it."""
        self.control("set_vm_memory_high_watermark", f"{fraction:.7f}")
