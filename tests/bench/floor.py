"""The floor: what the raw clients do on the same work, with the product's statements and nothing between.

Consume, insert claimed (`unnest` of binary arrays), ack the batch, run the handler, write the guarded update. One
thread each for the broker, the inserts and the finishing writes, as in a pod. It decodes the JSON body and calls the
handler; it has no routing, no validation, no retries, no membership and no outage handling.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable
from hashlib import blake2b

import pika
import psycopg
from kafka import KafkaConsumer
from kafka.structs import OffsetAndMetadata
from psycopg.types.array import ListBinaryDumper

from tests.bench.handlers import touch

TABLE = """
CREATE TABLE floor (id bytea PRIMARY KEY, version integer NOT NULL, state text NOT NULL, lane smallint NOT NULL,
  due_at bigint NOT NULL, owner bytea, token bigint, attempts integer NOT NULL, rescues integer NOT NULL,
  created_at bigint NOT NULL, started_at bigint, finished_at bigint, digest bytea NOT NULL, namespace text NOT NULL,
  correlation_bytes bytea NOT NULL, route text NOT NULL, handler text NOT NULL, headers text NOT NULL, body bytea);
CREATE INDEX ON floor (lane, due_at) WHERE state = 'ENQUEUED';
CREATE INDEX ON floor (due_at) WHERE state = 'SCHEDULED';
CREATE INDEX ON floor (owner) WHERE state = 'PROCESSING';
CREATE INDEX ON floor (due_at) WHERE state IN ('SUCCEEDED', 'FAILED', 'DELETED')
"""
NOW = "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint)"
INSERT = f"""
INSERT INTO floor SELECT id, 1, 'PROCESSING', 0, {NOW} + place, %(owner)s, %(token)s, 0, 0, {NOW}, {NOW}, NULL,
  digest, 'bench', correlation, 'bench', 'touch', '{{}}', body
FROM unnest(%(ids)s::bytea[], %(places)s::integer[], %(digests)s::bytea[], %(correlations)s::bytea[],
  %(bodies)s::bytea[]) AS new (id, place, digest, correlation, body)
ON CONFLICT (id) DO NOTHING RETURNING id
"""
FINISH = f"""
UPDATE floor SET state = 'SUCCEEDED', version = floor.version + 1, due_at = {NOW} + 604800000000,
  finished_at = {NOW} FROM unnest(%(ids)s::bytea[], %(versions)s::integer[]) AS ended (id, version)
WHERE floor.id = ended.id AND floor.version = ended.version AND floor.owner = %(owner)s RETURNING floor.id
"""
Received = tuple[bytes, bytes]
"""Correlation ID and body."""


def _connect(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
    connection.adapters.register_dumper(list, ListBinaryDumper)
    return connection


class Floor:
    """The two database threads; a broker's loop calls `insert` and acks when it returns."""

    def __init__(self, url: str) -> None:
        self._inserting, self._finishing = _connect(url), _connect(url)
        self._inserting.execute(TABLE)
        self._owner = os.urandom(16)
        self._ended: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self.finished = 0
        threading.Thread(target=self._finish_forever, daemon=True).start()

    def insert(self, received: list[Received]) -> None:
        """Insert a batch, run its handlers."""
        rows = {}
        for correlation, body in received:
            key = blake2b(b"bench" + correlation, digest_size=16).digest()
            rows.setdefault(key, (correlation, body))
        ids = sorted(rows)
        bodies = [rows[key][1] for key in ids]
        new = self._inserting.execute(
            INSERT,
            {
                "ids": ids,
                "places": list(range(len(ids))),
                "digests": [blake2b(body, digest_size=16).digest() for body in bodies],
                "correlations": [rows[key][0] for key in ids],
                "bodies": bodies,
                "owner": self._owner,
                "token": int.from_bytes(os.urandom(7), "big"),
            },
        ).fetchall()
        for (key,) in new:
            touch(json.loads(rows[key][1]))
        self._ended.put([key for (key,) in new])

    def _finish_forever(self) -> None:
        while True:
            ids = self._ended.get()
            while len(ids) < 500 and not self._ended.empty():
                ids += self._ended.get()
            self._finishing.execute(FINISH, {"ids": ids, "versions": [1] * len(ids), "owner": self._owner}).fetchall()
            self.finished += len(ids)


def rabbitmq(url: str, queue_name: str, store_url: str, number: int) -> None:
    """Do `number` messages that wait in the queue."""
    floor = Floor(store_url)
    room = threading.Condition()
    inbox: list[tuple[int, bytes, bytes]] = []
    connection = pika.SelectConnection(
        pika.URLParameters(url), lambda opened: opened.channel(on_open_callback=on_channel)
    )
    channels: list[pika.channel.Channel] = []

    def on_channel(channel: pika.channel.Channel) -> None:
        channels.append(channel)
        channel.basic_qos(prefetch_count=2000, callback=lambda _: channel.basic_consume(queue_name, on_message))

    def on_message(_: object, method: object, properties: pika.BasicProperties, body: bytes) -> None:
        with room:
            inbox.append((method.delivery_tag, properties.correlation_id.encode(), body))
            room.notify()

    threading.Thread(target=connection.ioloop.start, daemon=True).start()

    def step() -> None:
        with room:
            room.wait_for(lambda: inbox, timeout=5)
            batch = inbox[:500]
            del inbox[:500]
        if not batch:
            return
        floor.insert([(correlation, body) for _, correlation, body in batch])
        tag = batch[-1][0]
        connection.ioloop.add_callback_threadsafe(lambda: channels[0].basic_ack(tag, multiple=True))

    _finish_all(floor, step, number, lambda: connection.ioloop.add_callback_threadsafe(connection.close))


def kafka(bootstrap: str, topic: str, store_url: str, number: int) -> None:
    """Do `number` records that wait in the topic."""
    floor = Floor(store_url)
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=topic,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=500,
    )
    handed: queue.Queue[object] = queue.Queue(2)
    done: queue.SimpleQueue[object] = queue.SimpleQueue()
    stopping = threading.Event()

    def poll_forever() -> None:
        while not stopping.is_set():
            polled = consumer.poll(timeout_ms=20)
            if polled:
                handed.put(polled)
            while not done.empty():
                consumer.commit(done.get())
        consumer.close()

    threading.Thread(target=poll_forever, daemon=True).start()

    def step() -> None:
        try:
            polled = handed.get(timeout=1)
        except queue.Empty:
            return
        floor.insert([(dict(r.headers)["correlation_id"], r.value) for records in polled.values() for r in records])
        done.put({p: OffsetAndMetadata(records[-1].offset + 1, "", -1) for p, records in polled.items()})

    _finish_all(floor, step, number, stopping.set)


def _finish_all(floor: Floor, step: Callable[[], None], number: int, stop: Callable[[], object]) -> None:
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            step()

    threading.Thread(target=work, daemon=True).start()
    while floor.finished < number:
        time.sleep(0.01)
    stopping.set()
    stop()
