"""A broker's URL and keys as the settings of its client.

Promises: keys win over the URL's credentials; TLS verifies unless `insecure` is written out; certificate files are
read anew at each call, so that a reconnect takes a rotated one; `describe` shows no credentials.
"""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import pika
from pydantic import SecretStr

from bridge.config.model import Broker, Tls

CONNECT_TIMEOUT = 5.0
STACK_TIMEOUT = 10.0
HEARTBEAT = 10
"""Seconds. The broker's own proposal of 60 would hide a frozen broker for over two minutes."""


class Explained(Exception):
    """An error of our own, whose text says all."""


class Credentials(NamedTuple):
    username: str | None
    password: str | None


def credentials(broker: Broker) -> Credentials:
    userinfo, at, _ = urlsplit(broker.url).netloc.rpartition("@")
    username, colon, password = userinfo.partition(":")
    return Credentials(
        broker.username if broker.username is not None else (unquote(username) if at else None),
        _revealed(broker.password) if broker.password is not None else (unquote(password) if colon else None),
    )


def _revealed(secret: SecretStr) -> str:
    return secret.get_secret_value()


def describe(broker: Broker) -> str:
    """The URL without its credentials."""
    parts = urlsplit(broker.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def one_line(error: BaseException, broker: Broker) -> str:
    """Why a client failed, short and without secrets: the innermost reason that its exceptions hold."""
    while True:
        inner = getattr(error, "exceptions", None) or getattr(error, "exception", None) or error.args[:1]
        inner = inner[-1] if isinstance(inner, (list, tuple)) and inner else inner
        if not isinstance(inner, BaseException):
            break
        error = inner
    name = "" if isinstance(error, Explained) else f"{type(error).__name__}: "
    shown = " ".join(f"{name}{error}".split())
    secrets = [credentials(broker).password, _revealed(broker.sasl.password) if broker.sasl else None]
    for secret in filter(None, secrets):
        for form in (" ".join(secret.split()), repr(secret)[1:-1], quote(secret, safe="")):
            if len(form) > 2:
                shown = shown.replace(form, "***")
    return shown[:300]


def tls_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key, password="")  # an encrypted key is an error, no question
    return context


def virtual_host(path: str) -> str:
    """`/` for no path, `/` and `/%2F`; `a/b` for `/a%2Fb`."""
    return unquote(path[1:]) or "/"


def amqp_parameters(broker: Broker, blocked_timeout: float | None = None) -> pika.ConnectionParameters:
    """:raises OSError: a certificate file is missing or unfit.
    :raises ValueError: the URL is none.
    """
    parts = urlsplit(broker.url)
    secure = parts.scheme == "amqps" or broker.tls is not None
    host = parts.hostname or "localhost"
    username, password = credentials(broker)
    return pika.ConnectionParameters(
        host=host,
        port=parts.port or (5671 if parts.scheme == "amqps" else 5672),
        virtual_host=virtual_host(parts.path),
        credentials=pika.PlainCredentials(username or "guest", password if password is not None else "guest"),
        heartbeat=HEARTBEAT,
        socket_timeout=CONNECT_TIMEOUT,
        stack_timeout=STACK_TIMEOUT,
        blocked_connection_timeout=blocked_timeout,
        ssl_options=pika.SSLOptions(tls_context(broker.tls or Tls()), host) if secure else None,
        client_properties={"product": "jobbridge"},
    )


def kafka_settings(broker: Broker) -> dict[str, object]:
    """What consumer, producer and admin client have in common."""
    settings: dict[str, object] = {
        "bootstrap_servers": urlsplit(broker.url).netloc.rpartition("@")[2].split(","),
        "bootstrap_timeout_ms": int(CONNECT_TIMEOUT * 1000),
        "client_id": "jobbridge",
    }
    username, password, mechanism = *credentials(broker), "PLAIN"
    if broker.sasl is not None:
        username, password = broker.sasl.username, _revealed(broker.sasl.password)
        mechanism = broker.sasl.mechanism
    transport = "SSL" if broker.tls is not None else "PLAINTEXT"
    if broker.tls is not None:
        settings |= {"ssl_context": tls_context(broker.tls), "ssl_check_hostname": not broker.tls.insecure}
    if username is not None:
        settings |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password or "",
        }
        transport = "SASL_SSL" if broker.tls is not None else "SASL_PLAINTEXT"
    return settings | {"security_protocol": transport}
