"""The configuration as a frozen tree. Shape only: what refers to what is checked in `check.py`.

Promises: nothing secret shows in its repr, in an error or in its JSON: passwords are SecretStr, and URLs are parted
from their credentials when they are read. Where a field is None the file does not say.
"""

import json
import re
import socket
from collections.abc import Mapping
from hashlib import blake2b
from ipaddress import ip_address
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bridge.config.cases import Case
from bridge.config.routes import Backoff, RecurringJobs, Retries, Route, Timeout
from bridge.config.section import Name, Section, Text, printable_name
from bridge.config.units import Duration, Size
from bridge.config.urls import BROKER_SCHEMES, STORE_SCHEMES, split
from scheduler.outbox import PREFIX


class Access(Section):
    """A URL and the credentials for it, whichever way the file gave them."""

    schemes: ClassVar[Mapping[str, str]] = {}

    url: Text
    """Without credentials."""
    username: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _part(cls, value: object) -> object:
        given: object = {"url": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("url"), str):
            return given
        try:
            found = split(given["url"], cls.schemes)
        except PydanticCustomError:
            return given  # `_checked` says it, at its place, and hides no other mistake
        parted = {"username": found.username, "password": found.password}
        return cls._completed(
            {**{name: text for name, text in parted.items() if text is not None}, **given, "url": found.url}
        )

    @classmethod
    def _completed(cls, given: dict[str, object]) -> dict[str, object]:
        return given

    @field_validator("url")
    @classmethod
    def _checked(cls, url: str) -> str:
        return split(url, cls.schemes).url


class Store(Access):
    schemes = STORE_SCHEMES

    url: Text = "sqlite:///jobbridge.db"
    migrate: Literal["auto", "check"] = "auto"
    max_backlog: int = Field(100_000, ge=1)
    """ENQUEUED jobs above which all sources pause."""


class Tls(Section):
    ca: Text | None = None
    cert: Text | None = None
    key: Text | None = None
    insecure: bool = False
    """True: the broker's certificate is not verified."""


class Sasl(Section):
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: Text
    password: SecretStr


class Broker(Access):
    schemes = BROKER_SCHEMES

    tls: Tls | None = None
    sasl: Sasl | None = None
    """Kafka's credentials, also those that the URL or `username` and `password` gave."""

    @property
    def scheme(self) -> str:
        """`amqp`, `amqps` or `kafka`."""
        return self.url.partition(":")[0]

    @classmethod
    def _completed(cls, given: dict[str, object]) -> dict[str, object]:
        sasl = given.get("sasl", {})
        own = {name: given[name] for name in ("username", "password") if name in given}
        if not str(given["url"]).startswith("kafka:") or not own or not isinstance(sasl, dict):
            return given
        return {**given, "sasl": {**own, **sasl}}


class BatchBounds(Section):
    max: int = Field(500, ge=1, le=10_000)
    max_bytes: Size = 4 * 1024**2
    linger: Duration = 0.0


class SourceSection(Section):
    """What all sources have."""

    broker: Name | None = None
    batch: BatchBounds = BatchBounds()
    max_message_bytes: Size = 1024**2
    otherwise: Literal["dead-letter", "ignore"] = "dead-letter"


def _no_outbox(value: str) -> str:
    if value.startswith(PREFIX):
        raise PydanticCustomError("bad-name", "outbox/ is where messages of handlers wait: choose another name")
    return value


class LocalSourceSection(SourceSection):
    broker: None = None
    queue: Annotated[Name, AfterValidator(_no_outbox)]
    delivery: Literal["shared"] = "shared"
    declare: bool = True


class AmqpSourceSection(SourceSection):
    broker: Name
    queue: Name
    delivery: Literal["shared", "every-pod"] = "shared"
    exchange: Name | None = None
    routing_keys: tuple[str, ...] | None = None
    """None: `["#"]` for a topic exchange, `[<queue>]` for a direct one."""
    exchange_type: Literal["topic", "direct", "fanout", "headers"] = "topic"
    queue_type: Literal["quorum", "classic"] = "quorum"
    dead_letter_exchange: Name | None = None
    prefetch: int = Field(2000, ge=1, le=65_535)
    declare: bool = True


def _topics(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _topic(value: str) -> str:
    if value.startswith("pattern:"):
        try:
            re.compile(value.removeprefix("pattern:"))
        except (re.error, RecursionError, OverflowError):
            raise PydanticCustomError("bad-topic", "after pattern: stands a regular expression") from None
    elif re.fullmatch(r"[A-Za-z0-9._\-]{1,249}", value) is None:
        raise PydanticCustomError("bad-topic", "a topic has 1 to 249 of A-Z a-z 0-9 . _ - (or write pattern:REGEX)")
    return value


def _one_pattern(topics: tuple[str, ...]) -> tuple[str, ...]:
    if len(topics) > 1 and any(topic.startswith("pattern:") for topic in topics):
        raise PydanticCustomError("bad-topic", "a pattern stands alone: give names, or one pattern:REGEX")
    return topics


class KafkaSourceSection(SourceSection):
    broker: Name
    topic: Annotated[
        tuple[Annotated[str, AfterValidator(_topic)], ...],
        BeforeValidator(_topics),
        Field(min_length=1),
        AfterValidator(_one_pattern),
    ]
    """Names, or one `pattern:REGEX`."""
    group: Name = "jobbridge"
    delivery: Literal["shared", "every-pod"] = "shared"
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    assignor: Literal["cooperative-sticky", "range", "roundrobin"] = "cooperative-sticky"
    partitions: int | None = Field(None, ge=1)
    """Given: create missing topics with so many partitions."""
    declare: bool | None = None


AnySource = LocalSourceSection | AmqpSourceSection | KafkaSourceSection


class Defaults(Section):
    retries: Retries | None = None
    timeout: Timeout | None = None
    backoff: Backoff | None = None


class Retention(Section):
    failed: Duration = 30 * 86400.0


def _host_name(value: str) -> str:
    return value or socket.gethostname()


class Pod(Section):
    name: Annotated[str, AfterValidator(_host_name), AfterValidator(printable_name)] = Field("", validate_default=True)
    workers: int = Field(20, ge=1, le=1000)
    heartbeat: Duration = Field(15.0, ge=0.1, le=3600)
    grace: Duration = 45.0
    heartbeat_file: Text | None = None
    """Written anew every two seconds while this process lives, for probes where no port is open."""


class Person(Section):
    """Who may see the dashboard."""

    password: SecretStr = Field(min_length=1)
    role: Literal["viewer", "operator"] = "viewer"


def _people(value: object) -> object:
    if value == "none":
        return {}
    if value == {}:
        raise PydanticCustomError("empty-auth", "name who may come in, or write none")
    return value


def _no_colon(value: str) -> str:
    if ":" in value:
        raise PydanticCustomError("bad-name", "no colon in a name: Basic authentication ends it there")
    return value


class Http(Section):
    port: int = Field(ge=1, le=65_535)
    bind: Text = "127.0.0.1"
    dashboard: bool = False
    auth: Annotated[
        dict[Annotated[Name, AfterValidator(_no_colon)], Person] | None,
        BeforeValidator(_people),
        PlainSerializer(lambda people: people or (None if people is None else "none"), when_used="json"),
    ] = Field(None, json_schema_extra={"examples": ["none"]})
    """Who may come in; empty: everybody, as the file says in so many words; None: it says nothing."""
    hosts: tuple[Name, ...] = ()
    """What browsers may call this pod, besides its own names."""
    payloads: Literal["show", "keys", "hide"] = "keys"
    """What is shown of bodies and headers: all, their keys alone, nothing."""
    read_only: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine reaches it."""
        try:
            return ip_address(self.bind).is_loopback
        except ValueError:
            return self.bind == "localhost"


class Configuration(Section):
    store: Store = Store()
    brokers: dict[Name, Broker] = {}
    sources: dict[Name, AnySource] = {}
    defaults: Defaults = Defaults()
    routes: tuple[Route, ...] = ()
    recurring: RecurringJobs = RecurringJobs()
    retention: Retention = Retention()
    handlers: tuple[Text, ...] = ()
    """Modules, or `module:function`."""
    filters: tuple[Text, ...] = ()
    """Modules, or `module:function`, of functions that are told what happens to jobs."""
    pod: Pod = Pod()
    http: Http | None = None
    """None: no port is opened."""
    tests: tuple[Case, ...] = ()
    """For `jobbridge test`; no pod reads them."""

    def shown(self) -> dict[str, object]:
        """The resolved configuration as the file would write it, secrets masked."""
        return self.model_dump(mode="json", exclude_none=True)

    def digest(self) -> str:
        """The same on all pods that run the same configuration: what each has of its own, name, port and file, is left
        out, and secrets and tests are."""
        own: dict[str, bool | set[str]] = {"pod": {"name", "heartbeat_file"}, "http": {"port"}, "tests": True}
        shown = self.model_dump(mode="json", exclude=own)
        return blake2b(json.dumps(shown, sort_keys=True).encode(), digest_size=8).hexdigest()
