"""What operators do on pages. Each act leaves who did it in the job's history, in the pause, or in the log."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from logging import getLogger
from typing import NamedTuple, TypeVar

from bridge.dashboard.asked import Asked
from bridge.dashboard.views import Missing, Views
from bridge.dead_letters import Replay, replay
from bridge.shown import doing, why_not
from scheduler.recurring import following, triggered
from scheduler.storage import Act
from scheduler.storage.acts import VERBS
from scheduler.storage.pauses import Kind

log = getLogger("jobbridge.dashboard")

T = TypeVar("T")

SWEEP_SECONDS = 10.0
"""How long one request goes on with all that match; its answer says whether more are left."""


class Done(NamedTuple):
    """What became of an act, and the page that shows it."""

    result: str
    page: str
    """A path without the program's own prefix."""
    detail: str = ""

    @property
    def status(self) -> int:
        """Of its answer in JSON."""
        good = ("DONE", "CREATED", "DUPLICATE", "MORE")
        return 200 if self.result in good else 404 if self.result == "NOT_FOUND" else 409


class Acts:
    """The acts, on the facts' own store."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._storage = views.storage

    def on_job(self, asked: Asked) -> Done:
        """requeue, run-now, cancel or delete one job."""
        verb = asked.path["verb"]
        if verb not in VERBS:
            raise Missing(f"no act is called so: there are {', '.join(VERBS)}")
        found = self._storage.states([asked.key()])
        state = found.get(asked.key())
        result = self._storage.act(doing(self._views.configuration, verb, asked.visitor.name), asked.key()).name
        return Done(result, f"/jobs/{asked.path['id']}", why_not(result, state))

    def on_matching(self, asked: Asked) -> Done:
        """The same to all jobs that matched when the count was shown, for a while; MORE: some are left."""
        views = self._views
        verb, state = views.swept(asked)
        began = asked.number("began", self._storage.clock(), 0, 2**62)
        wanted = asked.wanted(self._storage) | {"state": state}
        became: Counter[Act] = Counter()
        until = time.monotonic() + SWEEP_SECONDS
        more = False
        act = doing(views.configuration, verb, asked.visitor.name)
        for batch in self._storage.act_on_matching(act, began, **wanted):
            became += batch
            more = time.monotonic() > until
            if more:
                break
        log.info("%s: %s of %d jobs that were %s", asked.visitor.name, verb, became[Act.DONE], state.value)
        detail = f"{verb}: {became[Act.DONE]:,} done"
        for one, text in ((Act.LOST_RACE, "moved on meanwhile"), (Act.BODY_DROPPED, "had no body any more")):
            detail += f", {became[one]:,} {text}" if became[one] else ""
        return Done("MORE" if more else "DONE", f"/jobs?state={state.value}", detail)

    def on_recurring(self, asked: Asked) -> Done:
        """trigger, pause or resume a recurring job."""
        name, by = asked.text("name") or "", asked.visitor.name
        if not any(row["name"] == name for row in self._storage.list_recurring()):
            return Done("NOT_FOUND", "/recurring", "no recurring job is called so")
        verbs: dict[str, Callable[[], object]] = {
            "trigger": lambda: self._storage.trigger_recurring(name, triggered, by),
            "pause": lambda: self._storage.pause_recurring(name, by),
            "resume": lambda: self._storage.resume_recurring(name, following),
        }
        self._verb(asked, verbs)()
        log.info("%s: %s of the recurring job %s", by, asked.path["verb"], name)
        return Done("DONE", "/recurring")

    def on_source(self, asked: Asked) -> Done:
        """pause or resume a source, in all pods."""
        return self._switch(asked, "source", self._views.configuration.sources)

    def on_route(self, asked: Asked) -> Done:
        """pause or resume a route's jobs, in all pods."""
        return self._switch(asked, "route", [route.name for route in self._views.configuration.routes])

    def _switch(self, asked: Asked, kind: Kind, known: Collection[str]) -> Done:
        name, by = asked.text("name") or "", asked.visitor.name
        verbs: dict[str, Callable[[], object]] = {
            "pause": lambda: self._storage.pause(kind, name, by),
            "resume": lambda: self._storage.resume(kind, name),
        }
        verb = self._verb(asked, verbs)
        if name not in known:
            return Done("NOT_FOUND", "/sources", f"no {kind} is called so")
        verb()
        log.info("%s: %s of the %s %s", by, asked.path["verb"], kind, name)
        return Done("DONE", "/sources")

    def on_dead_letter(self, asked: Asked) -> Done:
        """replay or drop a dead letter."""
        key, by = asked.key(), asked.visitor.name
        verbs: dict[str, Callable[[], Done]] = {
            "replay": lambda: self._replayed(key, by),
            "drop": lambda: Done("DONE" if self._storage.drop_dead_letter(key) else "NOT_FOUND", "/dead-letters"),
        }
        done = self._verb(asked, verbs)()
        log.info("%s: %s of the dead letter %s: %s", by, asked.path["verb"], asked.path["id"], done.result)
        return done

    def _replayed(self, key: bytes, by: str) -> Done:
        replayed = replay(self._views.decoders, self._storage, key, by)
        if replayed.outcome is Replay.STILL_REJECTED:
            return Done("STILL_REJECTED", f"/dead-letters/{key.hex()}?try=1", replayed.detail)
        page = "/dead-letters" if replayed.job is None else f"/jobs/{replayed.job}"
        return Done(replayed.outcome.name, page, replayed.detail)

    @staticmethod
    def _verb(asked: Asked, verbs: Mapping[str, Callable[[], T]]) -> Callable[[], T]:
        verb = verbs.get(asked.path["verb"])
        if verb is None:
            raise Missing(f"no act is called so: there are {', '.join(verbs)}")
        return verb
