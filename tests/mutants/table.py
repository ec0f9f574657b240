"""Faults that would break a promise, each with the test that must fail for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A small change of the product."""

    name: str
    promise: str
    file: str
    old: str
    """Stands in the file exactly once."""
    new: str
    test: str
    """A test's path and name."""
    only: str = ""
    """Which of its parameters: a word of pytest's `-k`."""


INGEST = "tests/integration/test_ingest.py"
INSERT = "tests/conformance/test_storage_insert.py"
FINISH = "tests/conformance/test_storage_finish.py"
GATES = "tests/conformance/test_storage_gates.py"
RESCUE = "tests/conformance/test_storage_rescue.py"
CLIENTS = "tests/unit/test_broker_clients.py"
WORKER = "tests/unit/test_worker.py"
RECURRING = "tests/conformance/test_storage_recurring.py"
MESSAGES = "tests/fuzz/test_messages.py"
STATEFUL = "tests/stateful/test_storage.py::test_any_order_of_verbs_leaves_the_rows_of_the_model"

MUTANTS = [
    Mutant(
        "ack before commit",
        "I1",
        "bridge/ingest.py",
        "        while self._parts:\n            self._insert(self._parts[0])\n        self._source.ack(self._batch)\n",
        "        self._source.ack(self._batch)\n        while self._parts:\n            self._insert(self._parts[0])\n",
        f"{INGEST}::test_nothing_is_acked_before_the_commit_is_known",
        "sqlite",
    ),
    Mutant(
        "AMQP: acked as delivered",
        "I1",
        "bridge/sources/amqp_session.py",
        "self._queue, self._on_message, callback=",
        "self._queue, self._on_message, auto_ack=True, callback=",
        "tests/conformance/test_sources.py::test_what_is_not_acked_comes_again",
        "amqp or rabbitmq",
    ),
    Mutant(
        "Kafka: offset told when handed out",
        "I1",
        "bridge/sources/kafka_progress.py",
        "                assignment.outstanding.append(handed[-1])\n",
        "                assignment.outstanding.append(handed[-1])\n"
        "                self._unsent[assignment.partition] = handed[-1].next_offset\n",
        f"{CLIENTS}::test_an_offset_is_told_only_when_all_below_it_are_acked",
    ),
    Mutant(
        "no unique key",
        "I2",
        "scheduler/storage/migrations/steps.py",
        "        return [Column(name, columns.key(), primary_key=True)]\n",
        '        return [Column("seq", sa.Integer, primary_key=True), Column(name, columns.key(), nullable=False)]\n',
        f"{INSERT}::test_answers_tell_new_duplicate_conflict_and_collision_apart",
        "sqlite",
    ),
    Mutant(
        "duplicate answered before its commit",
        "I4",
        "scheduler/storage/mysql.py",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
        f"{INSERT}::test_a_duplicate_is_told_only_once_the_row_is_committed",
        "mariadb",
    ),
    Mutant(
        "insert without the sort by id",
        "I2",
        "scheduler/storage/intake.py",
        "sorted(range(len(ids)), key=ids.__getitem__)",
        "range(len(ids))",
        f"{INSERT}::test_rows_are_written_in_the_order_of_their_ids",
        "sqlite",
    ),
    Mutant(
        "a row of my own token is not run",
        "I1",
        "scheduler/storage/intake.py",
        "Inserted(Outcome.NEW, standing and place < claimed)",
        "Inserted(Outcome.NEW, False)",
        f"{WORKER}::test_an_insert_whose_reply_was_lost_is_offered_again_and_run_once",
    ),
    Mutant(
        "another token for each try",
        "I2",
        "scheduler/offers.py",
        "            token=offer.token,\n",
        "            token=worker.random.getrandbits(63),\n",
        f"{WORKER}::test_an_insert_whose_reply_was_lost_is_offered_again_and_run_once",
    ),
    Mutant(
        "finish without the owner",
        "I7",
        "scheduler/storage/execution.py",
        '            .where(rows, jobs.c.owner == bindparam("of_owner"))\n',
        "            .where(rows)\n",
        f"{FINISH}::test_the_same_version_given_out_twice_is_told_apart_by_the_owner",
        "sqlite",
    ),
    Mutant(
        "finish without the version",
        "I7",
        "scheduler/storage/execution.py",
        '(jobs.c.id == bindparam("of_id")) & (jobs.c.version == bindparam("of_version", type_=Integer))',
        'jobs.c.id == bindparam("of_id")',
        STATEFUL,
        "sqlite",
    ),
    Mutant(
        "an operator's act without the version",
        "I7",
        "scheduler/storage/acts.py",
        ".where(jobs.c.id.in_([one.id for one in seen]), same)",
        ".where(jobs.c.id.in_([one.id for one in seen]))",
        "tests/conformance/test_storage_acts.py::test_jobs_that_move_on_under_a_batch_are_left_alone",
        "sqlite",
    ),
    Mutant(
        "all that match without a beginning",
        "I7",
        "scheduler/storage/acts.py",
        "        *(or_(at.is_(None), at <= began) for at in (jobs.c.started_at, jobs.c.finished_at)),\n",
        "",
        "tests/conformance/test_storage_acts.py::test_what_came_or_failed_again_since_is_not_touched",
        "sqlite",
    ),
    Mutant(
        "results dropped in an outage",
        "I14",
        "scheduler/finisher.py",
        "        except StoreUnavailable:\n            worker.holding = True\n            raise\n",
        "        except StoreUnavailable:\n            self._held = []\n            raise\n",
        f"{WORKER}::test_results_that_cannot_be_written_are_held_and_come_before_any_claim",
    ),
    Mutant(
        "rescue by the servers that were struck off",
        "I11",
        "scheduler/maintenance/rescue.py",
        "for owner in sorted(owners - {row.id for row in self._storage.servers()}) if owners else ():",
        "for owner in owners & {row.id for row in self._membership.silent}:",
        f"{RESCUE}::test_a_claim_that_lands_after_its_server_was_struck_off_is_found_by_the_next_round",
        "sqlite",
    ),
    Mutant(
        "rescue of what the dead server finished",
        "I8",
        "scheduler/storage/upkeep.py",
        '            .where(jobs.c.owner == bindparam("of_owner"), jobs.c.state == state(JobState.PROCESSING))\n'
        "            .order_by(jobs.c.id)\n",
        '            .where(jobs.c.owner == bindparam("of_owner"))\n            .order_by(jobs.c.id)\n',
        STATEFUL,
        "sqlite",
    ),
    Mutant(
        "rescue without end",
        "I11",
        "scheduler/storage/upkeep.py",
        "over = jobs.c.rescues >= max_rescues\n",
        "over = jobs.c.rescues > max_rescues\n",
        f"{RESCUE}::test_the_fourth_orphaning_is_the_last",
        "sqlite",
    ),
    Mutant(
        "struck off in spite of a beat",
        "I13",
        "scheduler/storage/cluster.py",
        'servers.c.id == bindparam("of_id"), servers.c.beat == bindparam("seen")',
        'servers.c.id == bindparam("of_id"), servers.c.beat >= bindparam("seen")',
        "tests/conformance/test_storage_cluster.py::test_a_beat_in_between_wins_over_the_removal",
        "sqlite",
    ),
    Mutant(
        "a late round keeps its watch",
        "I14",
        "scheduler/membership.py",
        "            self._seen.clear()  # I was away myself: the others' silence may be my own\n",
        "            pass\n",
        "tests/unit/test_membership.py::test_a_late_round_forgets_what_was_watched",
    ),
    Mutant(
        "trust without end",
        "I10",
        "scheduler/membership.py",
        "        return registration.current and self._monotonic() < self._trusted_until\n",
        "        return registration.current\n",
        f"{WORKER}::test_without_trust_nothing_starts_and_a_good_beat_resumes_it",
    ),
    Mutant(
        "rescued jobs are prefetched",
        "I11",
        "scheduler/claimer.py",
        "        return min(room, inflight.free_workers() or one)",
        "        return room",
        f"{WORKER}::test_jobs_that_were_rescued_once_are_taken_for_free_workers_alone",
    ),
    Mutant(
        "many jobs that killed two pods at once",
        "I11",
        "scheduler/claimer.py",
        "one = 0 if inflight.holds_lane(lane) else 1",
        "one = 9",
        f"{WORKER}::test_jobs_that_were_rescued_twice_run_one_at_a_time",
    ),
    Mutant(
        "a lock is given on while its holder waits for a retry",
        "order within a lock",
        "scheduler/storage/gates.py",
        "jobs.c.state.in_((JobState.ENQUEUED.value, JobState.SCHEDULED.value))",
        "jobs.c.state.in_((JobState.ENQUEUED.value,))",
        f"{GATES}::test_a_job_keeps_its_lock_through_its_retries_and_rescues",
        "sqlite",
    ),
    Mutant(
        "locks are given on without holding their rows",
        "one at a time under a lock",
        "scheduler/storage/gates.py",
        "            self._lock(connection, wanted)\n",
        '            connection.execute(self.absent(locks), [{"key": key} for key in wanted])\n',
        f"{GATES}::test_racing_servers_never_run_two_of_one_lock",
        "postgresql",
    ),
    Mutant(
        "a limit is counted without holding its row",
        "no more run than a limit says",
        "scheduler/storage/gates.py",
        "        row = select(limits.c.grants).where(limits.c.key == limit.key).with_for_update()\n",
        "        row = select(limits.c.grants).where(limits.c.key == limit.key)\n",
        f"{GATES}::test_racing_servers_never_pass_a_limit",
        "postgresql",
    ),
    Mutant(
        "an expired job is claimed",
        "expiry",
        "scheduler/storage/execution.py",
        "            jobs.c.expires_at.is_(None) | jobs.c.started_at.is_not(None) | (jobs.c.expires_at > self.now),\n",
        "",
        f"{GATES}::test_a_job_that_has_not_started_in_time_is_deleted",
        "sqlite",
    ),
    Mutant(
        "a handler's writes stay where its result was refused",
        "one commit",
        "scheduler/worker.py",
        "                if not self.storage.finish_within(connection, self._success(run)):\n",
        "                if self.storage.finish_within(connection, self._success(run)) is None:\n",
        "tests/unit/test_transactions.py::test_a_fenced_run_leaves_nothing",
    ),
    Mutant(
        "promoted early",
        "I9",
        "scheduler/storage/upkeep.py",
        "jobs.c.state == state(JobState.SCHEDULED), jobs.c.due_at <= self.now)",
        "jobs.c.state == state(JobState.SCHEDULED), jobs.c.due_at <= self.now + 1)",
        "tests/conformance/test_storage_upkeep.py::test_nothing_is_promoted_early_and_all_that_is_due_is",
        "sqlite",
    ),
    Mutant(
        "purged before its window is over",
        "I2",
        "scheduler/storage/upkeep.py",
        "for one in sorted(FINISHED)]), jobs.c.due_at <= self.now)",
        "for one in sorted(FINISHED)]), jobs.c.due_at <= self.now + 1)",
        STATEFUL,
        "sqlite",
    ),
    Mutant(
        "Kafka: commit for a partition that moved",
        "I1",
        "bridge/sources/kafka_progress.py",
        "if assignment.stored is not None and self._owned.get(assignment.partition) is assignment:",
        "if assignment.stored is not None:",
        f"{CLIENTS}::test_nothing_is_told_of_a_partition_that_moved_even_if_it_came_back",
    ),
    Mutant(
        "AMQP: ack on another channel",
        "I1",
        "bridge/sources/amqp.py",
        "            if session is self._session and not session.ended:\n                session.ack(first, last)\n",
        "            if self._session is not None:\n                self._session.ack(first, last)\n",
        f"{CLIENTS}::test_an_ack_goes_to_the_session_that_delivered_or_nowhere",
    ),
    Mutant(
        "a batch is unpacked without a bound",
        "I5",
        "bridge/sources/kafka_codecs.py",
        "    if size > MOST:\n",
        "    if size > MOST**2:\n",
        "tests/fuzz/test_batches.py::test_a_bomb_is_told_once_and_passed",
        "zstd",
    ),
    Mutant(
        "a model's own error leaves the decoder",
        "I5",
        "scheduler/bodies.py",
        "        except Exception as error:  # a validator's",
        "        except ImportError as error:  # a validator's",
        f"{MESSAGES}::test_any_message_is_a_request_or_a_rejection",
    ),
    Mutant(
        "names counted one by one",
        "I5",
        "scheduler/bodies.py",
        "        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]\n",
        "        names = [name for name, _ in pairs]\n"
        "        twice = next(name for name in names if names[:20_000].count(name) > 1 or name == names[-1])\n",
        f"{MESSAGES}::test_a_name_twice_is_found_in_time",
    ),
    Mutant(
        "a repeated header joined each time",
        "I5",
        "bridge/message.py",
        "            repeated.setdefault(name, [texts[name]]).append(shown)\n",
        "            texts[name] = texts[name] + (', ' + shown)\n",
        f"{MESSAGES}::test_a_giant_message_is_decoded_in_time",
        "250 and bytes",
    ),
    Mutant(
        "a secret of several lines is shown",
        "secrets",
        "bridge/sources/connect.py",
        '(" ".join(secret.split()), repr(secret)[1:-1], quote(secret, safe=""))',
        "(secret,)",
        "tests/acceptance/test_secrets.py::test_no_repr_of_a_configuration_and_no_client_error_shows_any",
    ),
    Mutant(
        "overlap that looks at the store alone",
        "I13",
        "scheduler/recurring.py",
        "            last, runs = tick, (True, runs[0])\n",
        "            last = tick\n",
        f"{RECURRING}::test_overlap_holds_among_the_ticks_of_one_round",
        "sqlite",
    ),
    Mutant(
        "a resume that makes up for the pause",
        "I13",
        "scheduler/storage/recurring.py",
        '                values = {"paused_at": null(), "next_at": next_at}\n',
        '                values = {"paused_at": null(), "next_at": row.next_at if next_at else None}\n',
        f"{RECURRING}::test_a_pause_makes_nothing_and_a_resume_makes_nothing_up",
        "sqlite",
    ),
    Mutant(
        "each time of the day once, though it comes twice",
        "I13",
        "scheduler/cron.py",
        "        self._twice = twice or self._elapsed\n",
        "        self._twice = twice\n",
        "tests/unit/test_cron.py::test_both_changes_of_the_clock",
    ),
]

QUICK = ("Kafka: offset told when handed out", "a late round keeps its watch", "trust without end")
"""Those that `make test` runs too."""
