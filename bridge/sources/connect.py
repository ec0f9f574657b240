"""A broker's URL and keys as the settings of its client.

Promises: TLS verifies unless `insecure` is written out; certificate files are
read anew at each call, so that a reconnect takes a rotated one; `describe` shows no credentials.
"""

import ssl
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


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def describe(broker: Broker) -> str:
    """The URL, which the configuration has parted from its credentials."""
    return broker.url


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
    secrets = [_revealed(broker.password), _revealed(broker.sasl.password) if broker.sasl else None]
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
    password = _revealed(broker.password)
    return pika.ConnectionParameters(
        host=host,
        port=parts.port or (5671 if parts.scheme == "amqps" else 5672),
        virtual_host=virtual_host(parts.path),
        credentials=pika.PlainCredentials(broker.username or "guest", "guest" if password is None else password),
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
        "bootstrap_servers": urlsplit(broker.url).netloc.split(","),
        "bootstrap_timeout_ms": int(CONNECT_TIMEOUT * 1000),
        "client_id": "jobbridge",
    }
    transport = "SSL" if broker.tls is not None else "PLAINTEXT"
    if broker.tls is not None:
        settings |= {"ssl_context": tls_context(broker.tls), "ssl_check_hostname": not broker.tls.insecure}
    if broker.sasl is not None:
        settings |= {
            "sasl_mechanism": broker.sasl.mechanism,
            "sasl_plain_username": broker.sasl.username,
            "sasl_plain_password": _revealed(broker.sasl.password),
        }
        transport = "SASL_SSL" if broker.tls is not None else "SASL_PLAINTEXT"
    return settings | {"security_protocol": transport}
