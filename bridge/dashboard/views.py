"""What each page shows, as plain facts: a template makes a page of them, and `/api` gives them as JSON."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from bridge.config.model import Configuration, LocalSourceSection
from bridge.dashboard.asked import Asked
from bridge.dashboard.overview import COUNTED, WINDOWS, Facts, odd_ones, overview, told
from bridge.dashboard.payload import shown_body, shown_headers
from bridge.dead_letters import Decoders, tried
from bridge.shown import (
    history,
    labelled,
    namespaces,
    next_ticks,
    progress,
    recurring_shown,
    routes_shown,
    server_shown,
    sources_shown,
)
from scheduler.instants import instant_of
from scheduler.job import FINISHED, JobState
from scheduler.recurring import Recurring
from scheduler.storage import Storage
from scheduler.storage.acts import VERBS
from scheduler.storage.operators import keys_of

SWEPT = 10_000
"""How far an act on all that match counts."""
SWEEPABLE = {
    "requeue": (JobState.FAILED, JobState.DELETED),
    "delete": (JobState.FAILED, JobState.ENQUEUED, JobState.SCHEDULED),
    "run-now": (JobState.SCHEDULED,),
    "cancel": (JobState.PROCESSING,),
}
"""Acts on all that match, and the states that they take: never millions of jobs that succeeded."""


class Missing(Exception):
    """What was asked for is not there."""


class Views:
    """The facts, by page.

    :param decoders: of each source, for what a dead letter would become.
    """

    def __init__(self, configuration: Configuration, storage: Storage, decoders: Decoders) -> None:
        self.configuration = configuration
        self.storage = storage
        self.decoders = decoders
        self._payloads = configuration.http.payloads if configuration.http is not None else "keys"

    def overview(self, asked: Asked) -> Facts:
        """What there is to do, how it goes, and what is wrong."""
        return overview(self.configuration, self.storage, window_of(asked))

    def jobs(self, asked: Asked) -> Facts:
        """A page of jobs in one state, or the jobs that an id or a correlation ID names."""
        name = asked.text("id")
        state = asked.state(JobState.PROCESSING)
        counts = {one.value: self.storage.count_some(one, COUNTED) for one in JobState if one not in FINISHED}
        counts["FAILED"] = self.storage.count_some(JobState.FAILED, COUNTED)
        facts: Facts = {"state": state.value, "counts": counts, "filters": asked.filters(), "id": name}
        if name is not None:
            found = self.storage.job_heads(keys_of(name, namespaces(self.configuration)))
            rows, after, filled = [_without(job, "body") for job in found], None, True
        else:
            page = self.storage.page_of_jobs(state, asked.wanted(self.storage), asked.text("after") or "")
            rows, after, filled = page
        verbs = [verb for verb, states in SWEEPABLE.items() if state in states and name is None and rows]
        shown = [_without(job, "headers") for job in labelled(self.configuration, rows)]
        return facts | {"jobs": shown, "after": after, "filled": filled, "verbs": verbs}

    def matching(self, asked: Asked) -> Facts:
        """How many jobs an act on all that match would take, and as of when."""
        verb, state = self.swept(asked)
        began = asked.number("began", self.storage.clock(), 0, 2**62)
        wanted = asked.wanted(self.storage) | {"state": state}
        number = self.storage.count_some_matching(VERBS[verb], began, SWEPT, **wanted)
        facts: Facts = {"verb": verb, "state": state.value, "filters": asked.filters(), "began": began}
        return facts | {"number": number, "more": number == SWEPT}

    def swept(self, asked: Asked) -> tuple[str, JobState]:
        """The act on all that match, and the state that they are in."""
        verb = asked.text("verb") or ""
        if verb not in SWEEPABLE:
            raise Missing(f"no act is called so: there are {', '.join(SWEEPABLE)}")
        state = asked.state(SWEEPABLE[verb][0])
        if state not in SWEEPABLE[verb]:
            raise Missing(f"{verb} is for jobs that are {', '.join(SWEEPABLE[verb])}")
        return verb, state

    def job(self, asked: Asked) -> Facts:
        """One job, with its history."""
        found = self.storage.job_heads([asked.key()])
        if not found:
            raise Missing("no job has this id")
        (job,) = labelled(self.configuration, found)
        lines = history(self.storage, job)
        state, dropped = JobState(str(job["state"])), job["size"] is None
        acts = [
            verb.name
            for verb in VERBS.values()
            if state in verb.possible and not (dropped and verb.target is JobState.ENQUEUED)
        ]
        headers = json.loads(str(job["headers"]))
        return {
            "job": _without(job, "headers", "body"),
            "headers": shown_headers(headers, self._payloads),
            "body": shown_body(job["body"], job["size"], self._payloads),
            "origin": self._origin(str(job["source"])),
            "history": _with_gaps(_path(lines)),
            "conflicts": [line for line in lines if line["kind"] == "CONFLICT"],
            "log": [line for line in lines if line["kind"] == "LOG"][-1:],
            "progress": progress(self.storage, job),
            "acts": acts,
        }

    def _origin(self, source: str) -> Facts:
        """Where its source takes messages from."""
        section = self.configuration.sources.get(source)
        if section is None:
            return {"source": source}
        if isinstance(section, LocalSourceSection):
            return {"source": source, "queue": section.queue}
        place = section.model_dump(include={"queue", "exchange", "topic", "group"}, exclude_none=True)
        return {"source": source, "broker": section.broker, **place}

    def recurring(self, asked: Asked) -> Facts:
        """All recurring jobs, and when each runs next."""
        now = instant_of(self.storage.clock())
        rows: list[Facts] = []
        for row in self.storage.list_recurring():
            try:
                ticks = next_ticks(Recurring.loads(str(row["spec"])), now, 5)
            except ValueError:
                ticks = []
            rows.append(recurring_shown(row) | {"next": ticks})
        return {"recurring": rows}

    def servers(self, asked: Asked) -> Facts:
        """The live pods, who is master, and who does not run the configuration that most of them run."""
        pods = told(self.storage)
        odd = odd_ones(pods)
        servers: list[Facts] = []
        for pod in pods:
            names = ("busy", "workers", "versions", "configuration", "memory", "draining", "clock_offset", "sources")
            more = {name: pod.status.get(name) for name in names}
            judged = {"age_seconds": pod.row.age_us / 1e6, "late": pod.late, "odd": pod.row.id in odd}
            servers.append(server_shown(pod.row, pod.master) | more | judged)
        return {"servers": servers}

    def sources(self, asked: Asked) -> Facts:
        """Sources and routes."""
        return {
            "sources": sources_shown(self.configuration, self.storage),
            "routes": routes_shown(self.configuration, self.storage),
        }

    def dead_letters(self, asked: Asked) -> Facts:
        """A page of dead letters, the newest first."""
        filters = {name: text for name in ("reason", "source") if (text := asked.text(name)) is not None}
        page = self.storage.page_of_dead_letters(
            asked.text("after") or "", reason=filters.get("reason"), source=filters.get("source")
        )
        shown = [_without(row, "envelope") for row in page.rows]
        return {"dead_letters": shown, "after": page.after, "filled": page.filled, "filters": filters}

    def dead_letter(self, asked: Asked) -> Facts:
        """One dead letter; with `try`, what it would become now."""
        letter = self.storage.dead_letter_head(asked.key())
        if letter is None:
            raise Missing("no dead letter has this id")
        envelope = json.loads(str(letter["envelope"]))
        headers: dict[str, object] = {}
        for name, value in envelope.pop("headers", ()):
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return {
            "letter": _without(letter, "body", "envelope"),
            "envelope": envelope if self._payloads == "show" else {},
            "headers": shown_headers(headers, self._payloads),
            "body": shown_body(letter["body"], letter["size"], self._payloads),
            "origin": self._origin(str(letter["source"])),
            "tried": tried(self.decoders, self.storage, asked.key()) if asked.text("try") else None,
        }


def window_of(asked: Asked) -> str:
    """The window of time that a chart shows."""
    given = asked.text("window")
    return given if given in WINDOWS else "1h"


_ENDS = {"FAILED": ("FAILED", "RESCUED"), "DELETED": ("DELETED", "CANCELLED", "EXPIRED")}
"""Ends that events tell more of."""


def _path(lines: Sequence[Facts]) -> list[Facts]:
    """What happened to a job, each thing once."""
    kinds = {line["kind"] for line in lines if line["version"] is not None}
    return [
        line
        for line in lines
        if line["kind"] not in ("CONFLICT", "LOG")
        and (line["version"] is not None or kinds.isdisjoint(_ENDS.get(str(line["kind"]), ())))
    ]


def _with_gaps(lines: list[Facts]) -> list[Facts]:
    """The lines of a history, each with the seconds since the one before."""
    times = [datetime.fromisoformat(str(line["at"])) for line in lines]
    gaps = [0.0, *((later - earlier).total_seconds() for earlier, later in pairwise(times))]
    return [line | {"gap": gap} for line, gap in zip(lines, gaps, strict=True)]


def _without(record: Mapping[str, object], *names: str) -> Facts:
    return {name: value for name, value in record.items() if name not in names}
