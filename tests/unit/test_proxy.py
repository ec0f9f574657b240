"""The faulty proxy does to a connection what its methods say, and nothing when told nothing."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy
from tests.servers.processes import wait_until


class Echo:
    """Answers each chunk with itself; keeps what arrived."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.received = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.received += data
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        yield client


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := client.recv(size - len(data))):
        data += chunk
    return data


def test_it_carries_everything(client: socket.socket) -> None:
    assert ask(client, b"x" * 500_000) == b"x" * 500_000


def test_an_end_of_file_is_passed_on(client: socket.socket) -> None:
    assert ask(client, b"last") == b"last"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_cut_resets_and_refuses_until_restored(proxy: Proxy, client: socket.socket) -> None:
    assert ask(client, b"before") == b"before"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    proxy.restore()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert ask(again, b"after") == b"after"


def test_cut_ends_the_upstream_though_it_does_not_read() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        Proxy("127.0.0.1", deaf.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as client,
    ):
        upstream, _ = deaf.accept()
        upstream.settimeout(5)
        client.setblocking(False)

        def is_stuck() -> bool:
            try:
                client.send(b"x" * 65536)
            except BlockingIOError:
                return True
            return False

        assert wait_until(is_stuck, seconds=20, interval=0)
        proxy.cut()
        with upstream, pytest.raises(ConnectionResetError):
            while upstream.recv(1 << 20):
                pass
            raise ConnectionResetError  # an orderly end will do


def test_freeze_keeps_the_connection_and_the_bytes(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.freeze()
    client.sendall(b"held")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert echo.received == b""
    proxy.restore()
    client.settimeout(5)
    assert receive(client, 4) == b"held"


def test_delay_holds_back_both_directions(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.1)
    began = time.monotonic()
    assert ask(client, b"slow") == b"slow"
    assert time.monotonic() - began >= 0.2


def test_the_reply_to_a_request_is_lost_once(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.reset_on_reply_after(b"COMMIT")
    assert ask(client, b"INSERT") == b"INSERT"
    client.sendall(b"COMMIT")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.received == b"INSERTCOMMIT"
    assert proxy.resets == 1
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert ask(again, b"COMMIT") == b"COMMIT"


def test_the_reply_to_lose_may_be_chosen_by_a_predicate(proxy: Proxy, client: socket.socket) -> None:
    proxy.reset_on_reply_after(lambda sent: len(sent) > 3)
    assert ask(client, b"abc") == b"abc"
    client.sendall(b"abcd")
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_reset_leaves_the_door_open(proxy: Proxy, client: socket.socket) -> None:
    assert ask(client, b"before") == b"before"
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert ask(again, b"after") == b"after"


def test_half_open_takes_requests_and_gives_no_reply(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.swallow_replies()
    client.sendall(b"asked")
    assert wait_until(lambda: echo.received == b"asked", 5)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.restore()
    client.settimeout(5)
    assert receive(client, 5) == b"asked"


def test_throttle_limits_the_bytes_of_a_second(proxy: Proxy, client: socket.socket) -> None:
    proxy.throttle(10_000)
    began = time.monotonic()
    assert ask(client, b"x" * 1000) == b"x" * 1000
    assert time.monotonic() - began >= 0.2


def test_an_end_is_passed_on_slowly(proxy: Proxy, client: socket.socket) -> None:
    assert ask(client, b"last") == b"last"
    proxy.close_slowly(0.1)
    began = time.monotonic()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert time.monotonic() - began >= 0.2
