"""Only transitions of the table happen, and every write to a job's row carries its guard."""

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

import scheduler.storage
from scheduler.job import TRANSITIONS, Job, JobState
from scheduler.storage import Storage
from scheduler.storage.records import Finish
from tests.conformance.stores import (
    DAY,
    A,
    claimed,
    failure,
    force,
    handed_back,
    job,
    put,
    retry,
    row,
    success,
)

KEY = job("job-0").id
GONE = "GONE"


def held_by_a(storage: Storage) -> Job:
    (held,) = claimed(storage)
    return held


def reach(storage: Storage, state: JobState) -> Job:
    """Bring the job to this state by the verbs alone; the claim on the way there."""
    held = held_by_a(storage)
    if state is JobState.ENQUEUED:
        storage.finish([handed_back(held)])
    elif state is JobState.SCHEDULED:
        storage.finish([retry(held, 0)])
    elif state is JobState.SUCCEEDED:
        storage.finish([success(held, 0)])
    elif state is JobState.FAILED:
        storage.finish([failure(held, 0)])
    elif state is JobState.DELETED:
        storage.delete(KEY, 0)
    assert row(storage, KEY)["state"] == state
    return held


def finishing(state: JobState, *, failures: int = 0) -> Callable[[Storage, Job], object]:
    return lambda storage, held: storage.finish([Finish(KEY, held.version, A, state, 0, failures)])


VERBS: dict[str, Callable[[Storage, Job], object]] = {
    "insert": lambda storage, _: storage.insert_if_absent([job("job-0")], token=9, owner=A, claimed=1),
    "insert again": lambda storage, _: storage.insert_if_absent([job("job-0")], token=1, owner=A, claimed=1),
    "conflict": lambda storage, _: storage.insert_if_absent([job("job-0", body=b"[]")], token=9),
    "claim": lambda storage, _: [storage.claim(A, ["h"], 5, lane) for lane in (0, 1, 2)],
    "succeed": finishing(JobState.SUCCEEDED),
    "fail": finishing(JobState.FAILED, failures=1),
    "retry": finishing(JobState.SCHEDULED, failures=1),
    "hand back": finishing(JobState.ENQUEUED),
    "fail with an event": lambda storage, held: storage.finish([failure(held)]),
    "promote": lambda storage, _: storage.promote(),
    "rescue": lambda storage, _: storage.rescue(A, max_rescues=3, retention_us=DAY),
    "rescue too often": lambda storage, _: storage.rescue(A, max_rescues=0, retention_us=DAY),
    "purge": lambda storage, _: storage.purge(),
    "requeue": lambda storage, _: storage.requeue(KEY),
    "delete": lambda storage, _: storage.delete(KEY),
    "run now": lambda storage, _: storage.run_now(KEY),
    "cancel": lambda storage, _: storage.cancel(KEY),
    "beat": lambda storage, _: storage.beat(A, "{}"),
    "unregister": lambda storage, _: storage.unregister(A),
}


def test_only_transitions_of_the_table_happen(storage: Storage) -> None:
    """Every verb over every state: it goes where the table says or nowhere, and each change is one version."""
    seen: set[tuple[JobState, JobState]] = set()
    for state in JobState:
        for name, verb in VERBS.items():
            storage.delete(KEY, 0)
            if storage.count_by_state()[JobState.SUCCEEDED]:
                force(storage, KEY, due_at=1)
            while storage.purge():
                pass
            force(storage, KEY, state="DELETED", due_at=1)
            storage.purge()
            held = reach(storage, state)
            before = row(storage, KEY)
            verb(storage, held)
            stands = {one["id"]: one for one in storage.find_jobs(str(held.id))}
            if not stands:
                assert name == "purge" and state in (JobState.SUCCEEDED, JobState.FAILED, JobState.DELETED)
                continue
            after = row(storage, KEY)
            if after == before:
                continue
            target = JobState(after["state"])
            assert target in TRANSITIONS[state], f"{name}: {state} -> {target}"
            assert after["version"] == before["version"] + 1, name
            seen.add((state, target))
    assert seen == {(source, target) for source, targets in TRANSITIONS.items() for target in targets}


def test_a_job_enters_as_enqueued_or_processing(storage: Storage) -> None:
    """An insert makes no other state."""
    storage.insert_if_absent([job(1), job(2)], token=1, owner=A, claimed=1)
    assert [row(storage, job(k).id)["state"] for k in (1, 2)] == ["PROCESSING", "ENQUEUED"]


Written = list[tuple[str, list[str]]]


@contextmanager
def recorded(storage: Storage) -> Iterator[Written]:
    """The writes to jobs' rows, each with the statements before it in its transaction."""
    writes: Written = []
    transaction: list[str] = []

    def note(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        text = re.sub(r"\s+", " ", statement)
        if text.startswith("BEGIN"):
            transaction[:] = [text]
        elif text in ("COMMIT", "ROLLBACK"):
            transaction.clear()
        else:
            if re.match(r"(WITH \w+ AS \()?(UPDATE|DELETE FROM) jobbridge_jobs\b", text):
                writes.append((text, list(transaction)))
            if transaction:
                transaction.append(text)

    event.listen(storage.engine, "before_cursor_execute", note)
    try:
        yield writes
    finally:
        event.remove(storage.engine, "before_cursor_execute", note)


def condition(statement: str) -> set[str]:
    """The columns of jobs' rows that a statement's WHERE names, those of its inner selects included."""
    outer = statement.split(" RETURNING ")[0]
    _, _, where = outer.partition(" WHERE ")
    return set(re.findall(r"jobbridge_jobs\.(\w+)", where))


def is_guarded(write: str, before: list[str], guard: set[str]) -> bool:
    """Whether a write names its guard, or the rows that its transaction read under lock by this guard."""
    if guard <= condition(write):
        return True
    locks = [one for one in before if "FOR UPDATE" in one or before[0] == "BEGIN IMMEDIATE"]
    return "id" in condition(write) and any(guard <= condition(one) for one in locks)


ID_VERSION_OWNER = {"id", "version", "owner"}
GUARDS: dict[str, tuple[JobState, set[str]]] = {
    "claim": (JobState.ENQUEUED, {"state", "lane", "handler"}),
    "succeed": (JobState.PROCESSING, ID_VERSION_OWNER),
    "hand back": (JobState.PROCESSING, ID_VERSION_OWNER),
    "retry": (JobState.PROCESSING, ID_VERSION_OWNER),
    "fail with an event": (JobState.PROCESSING, ID_VERSION_OWNER),
    "promote": (JobState.SCHEDULED, {"state", "due_at"}),
    "rescue": (JobState.PROCESSING, {"state", "owner"}),
    "rescue too often": (JobState.PROCESSING, {"state", "owner"}),
    "purge": (JobState.SUCCEEDED, {"state", "due_at"}),
    "requeue": (JobState.FAILED, {"id", "version"}),
    "delete": (JobState.PROCESSING, {"id", "version"}),
    "run now": (JobState.SCHEDULED, {"id", "version"}),
    "cancel": (JobState.PROCESSING, {"id", "version"}),
}


@pytest.mark.parametrize("name", GUARDS)
def test_every_write_to_a_jobs_row_carries_its_guard(storage: Storage, name: str) -> None:
    """In the WHERE of the statement that is sent, or of the locking read in the same transaction."""
    state, guard = GUARDS[name]
    held = reach(storage, state)
    with recorded(storage) as writes:
        VERBS[name](storage, held)
    assert writes
    for write, before in writes:
        assert is_guarded(write, before, guard), write


def test_finish_and_rescue_carry_the_guard_in_the_write_itself(storage: Storage) -> None:
    """No read before it could replace it: between the two another may win."""
    for name in ("succeed", "hand back", "fail with an event", "rescue", "requeue", "delete", "run now", "cancel"):
        state, guard = GUARDS[name]
        force(storage, KEY, state="DELETED", due_at=1)
        storage.purge()
        held = reach(storage, state)
        with recorded(storage) as writes:
            VERBS[name](storage, held)
        assert [write for write, _ in writes if not guard <= condition(write)] == []


def test_expiry_and_locks_carry_their_guards(storage: Storage) -> None:
    """What started, or went on, between a read and the write stays as it is."""
    put(storage, [job("late", expires_us=0), job("first", lock_key=KEY), job("second", lock_key=KEY)])
    (held,) = (one for one in storage.claim(A, ["h"], 2) if one.lock_key)
    with recorded(storage) as writes:
        storage.finish([failure(held)])
        assert storage.expire(DAY) == 1
    passed_on, expired = (condition(write) for write, _ in writes[-2:])
    assert {"id", "state", "lane"} <= passed_on
    assert {"id", "state", "expires_at", "started_at"} <= expired


def test_the_check_for_guards_finds_what_lacks_one() -> None:
    """An unguarded write is told apart from a guarded one, and columns that are set are no condition."""
    bare = "UPDATE jobbridge_jobs SET state=1, version=jobbridge_jobs.version + 1 WHERE jobbridge_jobs.id = 1"
    assert condition(bare) == {"id"}
    assert not is_guarded(bare, [], {"id", "version"})
    assert not is_guarded(bare, ["BEGIN", "SELECT 1 WHERE jobbridge_jobs.version = 1"], {"version"})
    assert is_guarded(bare, ["BEGIN", "SELECT 1 WHERE jobbridge_jobs.version = 1 FOR UPDATE"], {"version"})
    assert not is_guarded("DELETE FROM jobbridge_jobs WHERE 1", ["BEGIN IMMEDIATE"], {"state"})


def test_no_other_verb_writes_to_jobs_rows(storage: Storage) -> None:
    """The verbs that only read or insert send no UPDATE and no DELETE to them."""
    put(storage, [job("job-0")])
    with recorded(storage) as writes:
        for name, verb in VERBS.items():
            if name not in GUARDS and name != "fail":
                verb(storage, Job(KEY, 1, A, "", b"", "", "", "", "", "", b"", 0, 0, None))
        storage.peek(["h"])
        storage.standing(A)
        storage.held(A, [KEY])
        storage.find_jobs("job-0")
        storage.publish("q", [("{}", b"")])
        storage.receive("q", token=1, limit=1, max_bytes=1, visibility_us=1)
    assert writes == []


def test_the_places_that_write_to_jobs_rows_are_known() -> None:
    """A new one must be added to the checks above."""
    found: set[str] = set()
    for path in Path(scheduler.storage.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                text = ast.unparse(function)
                if re.search(r"\b(update|delete)\(jobs\)", text):
                    found.add(f"{path.stem}.{function.name}")
    assert found == {
        "execution.ending",
        "postgresql._finishing",
        "postgresql.__init__",
        "mysql.__init__",
        "sqlite.__init__",
        "acts._write",
        "gates.pass_on",
        "upkeep.expire",
        "upkeep.promote",
        "upkeep.rescue",
        "postgresql._purge",
        "upkeep._purge",
    }
