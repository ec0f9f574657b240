"""What would become of a message, and why. Neither a broker nor a store is asked.

Promises: decoding and routing are those of ingestion; what is shown is what they answered.
"""

from uuid import UUID

from bridge.assembly import assemble, decoders
from bridge.config.model import Configuration
from bridge.config.routes import Route
from bridge.config.units import duration_text
from bridge.decode import Ignored, Rejection, Request, finder
from bridge.labels import title_of
from bridge.message import Message, header_texts, text
from bridge.routing import tried
from scheduler.bodies import encoded
from scheduler.instants import instant_of, rfc3339
from scheduler.job import NewJob


class Explainer:
    """Explains for the sources of one configuration; imports its handlers.

    :raises HandlerError: as `assemble`.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._assembled = assemble(configuration)
        self._decoders = decoders(configuration, self._assembled.rules)

    def explain(self, source: str, message: Message) -> tuple[dict[str, object], NewJob | None]:
        """What becomes of a message that this source hands over, and the job that would be offered to the store."""
        decoded = self._decoders[source].decode(message)
        shown: dict[str, object] = {"outcome": "ignored", "source": source}
        if isinstance(decoded, Rejection):
            route = None if decoded.route is None else decoded.route.name
            told = {"reason": decoded.reason, "detail": decoded.detail, "fields": list(decoded.fields)}
            shown |= {"outcome": "dead-letter", "route": route, **told}
        elif isinstance(decoded, Request):
            shown |= {"outcome": "job", **self._job(decoded)}
        looked = isinstance(decoded, Request | Ignored) or decoded.route is not None or decoded.reason == "no-route"
        routes = tried(self._assembled.rules[source], message, header_texts(message)) if looked else ()
        shown["tried"] = [
            {"route": route.name, "matches": not unmet, "because": unmet or _why(route)} for route, unmet in routes
        ]
        return shown, decoded.job if isinstance(decoded, Request) else None

    def _job(self, request: Request) -> dict[str, object]:
        message, route, job, body = request
        policy = self._assembled.policies.of(job.route, job.handler)
        value = finder(route.lock)(message) if route.lock is not None else None
        # Without an ID each delivery gets another one.
        known = route.dedupe.missing != "allow" or bool(finder(route.dedupe.key)(message))
        columns = job._asdict() | {"id": UUID(bytes=job.id)}
        return {
            "route": job.route,
            "handler": job.handler,
            "namespace": job.namespace,
            "correlation_id": job.correlation_id if known else None,
            "id": columns["id"] if known else None,
            "digest": job.digest,
            "model": type(body).__name__,
            "body": encoded(body),
            "title": title_of(route.title, columns),
            "lock": None if not value else text(value),
            "retries": policy.retries,
            "timeout": None if policy.timeout is None else duration_text(policy.timeout),
            "due": _due(job),
            "expires": None if job.expires_us is None else f"{duration_text(job.expires_us / 1e6)} after it came",
        }


def _due(job: NewJob) -> str:
    if job.at_us is not None:
        return rfc3339(instant_of(job.at_us))
    return f"{duration_text(job.delay_us / 1e6)} after it came" if job.delay_us else "at once"


def _why(route: Route) -> str:
    return "; ".join(f"{key} is {pattern!r}" for key, pattern in route.when.items()) or "it takes every message"
