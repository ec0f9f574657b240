"""What pika cannot or will not send, made by hand, and a TLS front for a broker that has none."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

import pika

YEAR_10000 = 253_402_300_800


def field(name: bytes, kind: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + kind + value


def table(*fields: bytes) -> bytes:
    content = b"".join(fields)
    return struct.pack(">I", len(content)) + content


def nested(depth: int) -> bytes:
    """A table in a table in a table."""
    inner = table()
    for _ in range(depth):
        inner = table(field(b"t", b"F", inner))
    return inner


POISON = {
    "year-10000": table(field(b"when", b"T", struct.pack(">Q", YEAR_10000))),
    "milliseconds": table(field(b"when", b"T", struct.pack(">Q", 1_700_000_000_000))),
    "beyond-the-clock": table(field(b"when", b"T", struct.pack(">Q", 2**63))),
    "nested": nested(2000),
}


class RawProperties(pika.BasicProperties):
    """Properties whose header table is given as its bytes."""

    def __init__(self, headers: bytes, correlation_id: str) -> None:
        super().__init__(delivery_mode=2, correlation_id=correlation_id)
        self.raw_headers = headers

    def encode(self) -> list[bytes]:
        flags = self.FLAG_HEADERS | self.FLAG_DELIVERY_MODE | self.FLAG_CORRELATION_ID
        correlation = self.correlation_id.encode()
        return [struct.pack(">H", flags), self.raw_headers, b"\x02", bytes([len(correlation)]) + correlation]


def publish_raw(channel: pika.channel.Channel, queue: str, body: bytes, headers: bytes, correlation: str) -> None:
    channel.basic_publish("", queue, body, RawProperties(headers, correlation), mandatory=True)


@contextlib.contextmanager
def tls_front(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Listens with TLS and passes all on to the port; gives its own port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=_accept, args=(listener, port, context))]
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        threads[0].join()


def _accept(listener: socket.socket, port: int, context: ssl.SSLContext) -> None:
    pumps: list[threading.Thread] = []
    while True:
        try:
            raw, _ = listener.accept()
        except OSError:
            break
        pumps.append(threading.Thread(target=_serve, args=(raw, port, context)))
        pumps[-1].start()
    for pump in pumps:
        pump.join()


def _serve(raw: socket.socket, port: int, context: ssl.SSLContext) -> None:
    with raw:
        try:
            client = context.wrap_socket(raw, server_side=True)
        except OSError:
            return
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        client.settimeout(0.01)
        server.settimeout(0.01)
        while True:
            for source, target in ((client, server), (server, client)):
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not data:
                    return
                target.sendall(data)
