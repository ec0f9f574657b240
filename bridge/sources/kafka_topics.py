"""Which topics of a Kafka source exist, looked up where looking creates nothing, and made where it may.

A consumer's or producer's own metadata request asks the broker to create what it names: a mistyped topic would
come to be. So they are built only after this has found their topics.
"""

import re
from collections.abc import Mapping

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError, for_code

from bridge.config.model import Broker, KafkaSourceSection
from bridge.sources import connect, kafka_patch

_UNKNOWN_TOPIC = 3
_LEADER_NOT_AVAILABLE = 5


class TopicMissing(connect.Explained):
    """The text names the topic."""


def pattern_of(section: KafkaSourceSection) -> str | None:
    return section.topic[0].removeprefix("pattern:") if section.topic[0].startswith("pattern:") else None


def may_create(section: KafkaSourceSection) -> bool:
    return section.partitions is not None if section.declare is None else section.declare


def ensure_topics(broker: Broker, section: KafkaSourceSection) -> Mapping[str, int]:
    """The source's topics and how many partitions each has, after creating what is missing and may be.

    :raises TopicMissing:
    :raises KafkaError: the broker is not reachable, or refuses.
    """
    settings = connect.kafka_settings(broker)
    admin = kafka_patch.build(KafkaAdminClient, settings | {"request_timeout_ms": 10_000})
    try:
        pattern = pattern_of(section)
        if pattern is not None:
            matching = [topic for topic in _described(admin, None) if re.match(pattern, topic)]
            if not matching:
                raise TopicMissing(f"no topic matches {pattern!r}")
            return _described(admin, matching)
        found = _described(admin, list(section.topic))
        missing = [topic for topic in section.topic if topic not in found]
        if missing and may_create(section):
            _create(admin, missing, section.partitions)
            found = _described(admin, list(section.topic))
            missing = [topic for topic in section.topic if topic not in found]
        if missing:
            raise TopicMissing(f"the topic {missing[0]!r} does not exist")
        return found
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, topics: list[str], partitions: int | None) -> None:
    options = {} if partitions is None else {"num_partitions": partitions}
    for topic in topics:
        try:
            admin.create_topics({topic: options}, timeout_ms=10_000, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            continue


def _described(admin: KafkaAdminClient, topics: list[str] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for topic in admin.describe_topics(topics):
        code = int(topic["error_code"])
        if code in (0, _LEADER_NOT_AVAILABLE) and topic["partitions"] and not topic.get("is_internal"):
            found[str(topic["name"])] = len(topic["partitions"])
        elif code not in (0, _LEADER_NOT_AVAILABLE, _UNKNOWN_TOPIC):
            raise TopicMissing(f"the topic {topic['name']!r}: {for_code(code).__name__}")
    return found
