"""What `check --connect` asks a broker: does what stands there fit the configuration?

Promises: nothing is created or changed. Does not promise to see a broker's policies: a dead-letter target that one
of them sets is not known here.
"""

from kafka.errors import KafkaError

from bridge.config.model import AmqpSourceSection, Broker, KafkaSourceSection
from bridge.publish import AmqpPublisher, BrokerUnreachable
from bridge.sources import connect
from bridge.sources.amqp_topology import Exchange, Plan, Queue, queue_arguments, queue_name
from bridge.sources.kafka_topics import TopicMissing, ensure_topics, may_create


def probe_amqp(broker: Broker, section: AmqpSourceSection, pod_name: str) -> list[str]:
    """Warnings, none if all fits.

    :raises BrokerUnreachable:
    """
    warnings: list[str] = []
    AmqpPublisher(broker, _amqp_questions(section, pod_name, warnings), "", "", iter(())).run()
    return warnings


def _amqp_questions(section: AmqpSourceSection, pod_name: str, warnings: list[str]) -> Plan:
    if section.exchange:
        yield from _compare(Exchange(section.exchange, section.exchange_type), section.declare, warnings)
    yield from _compare(Queue(queue_name(section, pod_name), queue_arguments(section)), section.declare, warnings)
    target = section.dead_letter_exchange
    if target is not None:
        refused = yield Exchange(target)
        if refused is not None:
            warnings.append(f"the dead-letter exchange {target!r} does not exist: what goes there is lost")
    elif section.queue_type == "quorum":
        warnings.append(
            f"the queue {section.queue!r} is a quorum queue without dead_letter_exchange: a message over its "
            "delivery limit is dropped, unless a policy sets a target"
        )


def _compare(place: Exchange | Queue, declare: bool, warnings: list[str]) -> Plan:
    """Ask for it as configured only after it was seen to exist, so that the question never makes it."""
    noun = type(place).__name__.lower()
    refused = yield place
    if refused is None:
        refused = yield place._replace(passive=False)
        if refused is not None and refused.code == 406:
            warnings.append(f"the {noun} {place.name!r} is used as it is, and is not as configured: {refused.text}")
    elif refused.code != 404:
        warnings.append(f"the {noun} {place.name!r}: {refused.text}")
    elif not declare:
        warnings.append(f"the {noun} {place.name!r} does not exist, and declare is false: it is waited for")


def probe_kafka(broker: Broker, section: KafkaSourceSection) -> list[str]:
    """Warnings, none if all fits.

    :raises BrokerUnreachable:
    """
    try:
        found = ensure_topics(broker, section.model_copy(update={"declare": False}))
    except TopicMissing as missing:
        return [] if may_create(section) else [f"{missing}, and it is not created: it is waited for"]
    except (KafkaError, OSError, ValueError) as why:
        raise BrokerUnreachable(f"{connect.describe(broker)}: {connect.one_line(why, broker)}") from why
    wanted = section.partitions
    return [
        f"the topic {topic!r} is used as it is: it has {count} partitions, not {wanted}"
        for topic, count in found.items()
        if wanted is not None and count != wanted
    ]
