"""From a configuration to what runs: handlers, rules, policies, decoders, sources, stores. No thread is started."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bridge.config.model import AmqpSourceSection, Configuration, KafkaSourceSection, LocalSourceSection
from bridge.config.routes import Backoff
from bridge.decode import Decoder
from bridge.routing import Rule, rule
from bridge.sources.local import LocalSource
from bridge.sources.source import Source
from scheduler import retry
from scheduler.declared import declared
from scheduler.filters import Filters, collect_filters
from scheduler.handlers import HandlerError, HandlerRegistry, collect
from scheduler.limits import Limit, Rate, limit_key
from scheduler.outbox import PREFIX
from scheduler.recurring import Recurring
from scheduler.retry import Policies, PolicyOverride
from scheduler.storage import Storage, open_storage


class Assembled(NamedTuple):
    """What a configuration means."""

    registry: HandlerRegistry
    policies: Policies
    rules: Mapping[str, Sequence[Rule]]
    """By source, in the order of the routes."""
    limits: Sequence[Limit]
    filters: Filters
    destinations: Mapping[str, str]
    """For each source, the queue in the store of what handlers publish to it."""
    recurring: Sequence[Recurring]
    """What the configuration and the handlers declare."""


def assemble(configuration: Configuration) -> Assembled:
    """Import the handlers and filters and bind the routes to them.

    :raises HandlerError: for a handler that can't be used, or for two recurring jobs of one name.
    """
    listed = HandlerRegistry(collect(configuration.handlers))
    rules: dict[str, list[Rule]] = {name: [] for name in configuration.sources}
    for route in configuration.routes:
        rules[route.source].append(rule(route, listed.find(route.handler)))
    of_jobs = {name: listed.find(job.handler) for name, job in configuration.recurring.jobs().items()}
    of_routes = (one.handler for of_source in rules.values() for one in of_source)
    registry = HandlerRegistry([*listed.values(), *of_routes, *of_jobs.values()])
    recurring = [job.named(name, of_jobs[name].name) for name, job in configuration.recurring.jobs().items()]
    recurring += [one for handler in registry.values() for one in declared(handler)]
    for name, number in Counter(one.name for one in recurring).items():
        if number > 1:
            raise HandlerError(f"two recurring jobs have the name {name!r}")
    defaults = configuration.defaults
    policies = Policies(
        PolicyOverride(
            retries=defaults.retries,
            timeout=defaults.timeout,
            backoff=_backoff(defaults.backoff),
            failed_retention=configuration.retention.failed,
        ),
        {name: handler.options.policy for name, handler in registry.items()},
        {
            route.name: PolicyOverride(
                retries=route.retries,
                timeout=route.timeout,
                backoff=_backoff(route.backoff),
                window=route.dedupe.window,
                keep_body=route.keep_body,
                lock_while_retrying=route.lock_while_retrying,
            )
            for route in configuration.routes
        }
        | {one.route: PolicyOverride(retries=one.retries, timeout=one.timeout) for one in recurring},
    )
    limits = [
        Limit(limit_key(route.name), route.concurrency, route.rate and Rate(route.rate[0], int(route.rate[1] * 1e6)))
        for route in configuration.routes
        if route.is_limited
    ]
    destinations = {
        name: section.queue if isinstance(section, LocalSourceSection) else PREFIX + name
        for name, section in configuration.sources.items()
    }
    filters = collect_filters(configuration.filters)
    return Assembled(registry, policies, rules, limits, filters, destinations, recurring)


def _backoff(given: Backoff | None) -> retry.Backoff | None:
    return None if given is None else retry.Backoff(given.base, given.factor, given.max, given.delays)


def decoders(configuration: Configuration, rules: Mapping[str, Sequence[Rule]]) -> dict[str, Decoder]:
    """One decoder for each source."""
    return {
        name: Decoder(name, rules[name], otherwise=section.otherwise, max_message_bytes=section.max_message_bytes)
        for name, section in configuration.sources.items()
    }


def store(configuration: Configuration, pool_size: int = 10) -> Storage:
    """The configured store; not connected yet."""
    given = configuration.store
    password = None if given.password is None else given.password.get_secret_value()
    return open_storage(given.url, username=given.username, password=password, pool_size=pool_size)


def sources(configuration: Configuration, storage: Storage) -> list[Source]:
    """The configured sources; not connected yet."""
    return [_source(configuration, name, storage) for name in configuration.sources]


def _source(configuration: Configuration, name: str, storage: Storage) -> Source:
    # A pod without Kafka loads no Kafka client.
    section = configuration.sources[name]
    pod_name = configuration.pod.name
    if isinstance(section, AmqpSourceSection):
        from bridge.sources.amqp import AmqpSource

        return AmqpSource(name, configuration.brokers[section.broker], section, pod_name=pod_name)
    if isinstance(section, KafkaSourceSection):
        from bridge.sources.kafka import KafkaSource

        return KafkaSource(name, configuration.brokers[section.broker], section, pod_name=pod_name)
    return LocalSource(name, section, storage)
