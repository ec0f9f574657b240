"""A TCP proxy in the test's own process, between a client and a real server, that breaks as a network does.

The faults that stopping the server can't give: a reset while both ends live, silence, and a reply that is lost though
the server did what it was asked (a COMMIT whose outcome the client can't know).

Promises: a fault is in force for bytes that arrive after its method returned.
Does not promise: order between the two directions.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

from tests.servers.server import free_port

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST and not FIN


class Proxy:
    """Listens on `port`; each connection is carried to the upstream by two threads."""

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self._upstream = (upstream_host, upstream_port)
        self.upstream_port = upstream_port
        self.port = free_port()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = threading.Event()
        self._replying = threading.Event()
        self._replying.set()
        self._delay = 0.0
        self._rate = 0.0
        self._linger = 0.0
        self._trigger: Callable[[bytes], bool] | None = None
        self.resets = 0
        self.restore()

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            listener.close()
        self.reset()

    def reset(self) -> int:
        """Reset all connections, and go on accepting; how many."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.reset()
        return len(links)

    def restore(self) -> None:
        """End every fault: connections are accepted again, frozen bytes arrive, nothing is delayed or awaited."""
        self._delay = self._rate = self._linger = 0.0
        self._trigger = None
        self._flowing.set()
        self._replying.set()
        with self._lock:
            if self._listener is not None or self._closed.is_set():
                return
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def freeze(self) -> None:
        """Swallow silently: connections stay open, are even accepted, and no byte arrives until `restore()`."""
        self._flowing.clear()

    def swallow_replies(self) -> None:
        """Half open: what the client sends arrives, and no byte comes back until `restore()`."""
        self._replying.clear()

    def throttle(self, rate: float) -> None:
        """Let each direction of each connection pass so many bytes a second."""
        self._rate = rate

    def close_slowly(self, seconds: float) -> None:
        """Pass on the end of a connection so much later than it came."""
        self._linger = seconds

    def delay(self, seconds: float) -> None:
        """Hold back each chunk of bytes, in each direction, for so long."""
        self._delay = seconds

    def reset_on_reply_after(self, request: bytes | Callable[[bytes], bool]) -> None:
        """Reset one client's connection when the upstream begins to reply to what it sent.

        The request is recognised by bytes that it holds (also where they arrive in two pieces) or by a predicate over
        all that the client sent since the last reply. With a protocol of one request at a time the upstream has acted
        by then, and the client can't know. Once; `resets` counts it.
        """
        self._trigger = (lambda sent: request in sent) if isinstance(request, bytes) else request

    def close(self) -> None:
        """Cut for good."""
        self._closed.set()
        self.cut()
        self._flowing.set()
        self._replying.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # cut
                return
            try:
                upstream = socket.create_connection(self._upstream)
            except OSError:
                _reset(client)
                continue
            link = _Link(self, client, upstream)
            with self._lock:
                is_cut = self._listener is not listener
                if not is_cut:
                    self._links.add(link)
            if is_cut:
                link.reset()
                return
            threading.Thread(target=link.run, daemon=True).start()

    def pass_on(self, size: int, is_reply: bool) -> bool:
        """Wait as the faults in force demand for so many bytes."""
        rate = self._rate
        if self._delay or rate:
            self._closed.wait(self._delay + (size / rate if rate else 0.0))
        self._flowing.wait()
        if is_reply:
            self._replying.wait()
        return not self._closed.is_set()

    def linger(self) -> None:
        """Wait before an end is passed on."""
        if self._linger:
            self._closed.wait(self._linger)

    @property
    def is_watching(self) -> bool:
        """Say whether requests must be remembered; those of a client that only sends would pile up."""
        return self._trigger is not None

    def is_lost(self, sent: bytes) -> bool:
        """Say whether the reply to these bytes is the one to lose; only the first is."""
        with self._lock:
            if self._trigger is None or not self._trigger(sent):
                return False
            self._trigger = None
            self.resets += 1
            return True

    def forget(self, link: "_Link") -> None:
        """Drop a connection that has ended by itself."""
        with self._lock:
            self._links.discard(link)


class _Link:
    """One client's connection and the one upstream that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._lock = threading.Lock()
        self._sent = b""
        self._is_reset = False
        for end in (client, upstream):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Carry bytes both ways until both have ended."""
        there = threading.Thread(target=self._carry, args=(self._client, self._upstream), daemon=True)
        there.start()
        self._carry(self._upstream, self._client)
        there.join()
        self._proxy.forget(self)
        self._client.close()
        self._upstream.close()

    def reset(self) -> None:
        """End both connections; a thread that waits in recv() or send() keeps one open, so wake it first."""
        self._is_reset = True
        _reset(self._upstream, wake=socket.SHUT_RDWR)
        _reset(self._client)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self._proxy.pass_on(len(data), source is self._upstream):
                    return
                if source is self._client:
                    self._note_request(data)
                elif self._proxy.is_lost(self._take_request()):
                    self.reset()
                    return
                target.sendall(data)
            self._proxy.linger()
            if not self._is_reset:
                target.shutdown(socket.SHUT_WR)  # a half-closed connection stays half-closed
        except OSError:
            self.reset()

    def _note_request(self, data: bytes) -> None:
        with self._lock:
            self._sent += data if self._proxy.is_watching else b""

    def _take_request(self) -> bytes:
        with self._lock:
            sent, self._sent = self._sent, b""
            return sent


def _reset(end: socket.socket, wake: int = socket.SHUT_RD) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(wake)
    end.close()
