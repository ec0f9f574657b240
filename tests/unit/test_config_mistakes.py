"""Each mistake is said with its place, its stable code and what to do; one hides no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config.load import examine, load
from bridge.config.mistakes import ConfigurationError, count_line

GOOD = """\
brokers:
  rabbit: amqps://rabbit/
  events: kafka://kafka:9092
sources:
  orders: {broker: rabbit, queue: orders}
  payments: {broker: events, topic: payments}
  demo: {queue: demo}
routes:
  - {name: orders, from: orders, handler: "shop:place"}
  - {name: payments, from: payments, handler: "shop:place"}
  - {name: demo, from: demo, handler: "shop:place"}
"""


def said(tmp_path: Path, text: str, *, import_handlers: bool = False, **environ: str) -> list[str]:
    """What is said about a file, without the name of its folder."""
    file = tmp_path / "bridge.yaml"
    file.write_text(text)
    mistakes = examine(file, import_handlers=import_handlers, environ=environ).mistakes
    return [str(mistake).replace(f"{tmp_path}/", "") for mistake in mistakes]


def test_a_good_file_has_no_mistakes(tmp_path: Path) -> None:
    assert said(tmp_path, GOOD) == []


ROUTE = "sources: {demo: {queue: demo}}\nroutes:\n  - name: demo\n    from: demo\n    handler: shop:place\n"

GOLDEN = {
    "a title with an unknown placeholder": (
        ROUTE + "    title: 'order {body}'\n",
        "bridge.yaml:6:12: error[bad-title] routes[0].title: an unknown placeholder: known are {correlation_id}, {id}, "
        "{route}, {handler}, {source} and {header:NAME}",
    ),
    "a title with half a pair of braces": (
        ROUTE + "    title: 'order {'\n",
        "bridge.yaml:6:12: error[bad-title] routes[0].title: a brace that stands alone: write {{ or }}",
    ),
    "a misspelt key": (
        ROUTE + "    retires: 5\n",
        'bridge.yaml:6:5: error[unknown-key] routes[0].retires: did you mean "retries"?',
    ),
    "a misspelt key at the top": (
        "source: {}\n",
        'bridge.yaml:1:1: error[unknown-key] source: did you mean "sources"?',
    ),
    "an unknown key": (
        "retention: {zzz: 1d}\n",
        "bridge.yaml:1:13: error[unknown-key] retention.zzz: known here are failed",
    ),
    "a key of a later version": (
        ROUTE + "    priority: 3\n",
        'bridge.yaml:6:5: error[not-in-this-version] routes[0].priority: "priority" is not in this version',
    ),
    "a section of a later version": (
        "priority: {}\n",
        'bridge.yaml:1:1: error[not-in-this-version] priority: "priority" is not in this version',
    ),
    "a dashboard that others reach and nobody guards": (
        "http: {port: 8080, bind: 0.0.0.0, dashboard: true}\n",
        "bridge.yaml:1:26: error[open-dashboard] http.bind: others reach it here: name under http.auth who may come "
        "in, or write auth: none",
    ),
    "an empty list of people": (
        "http: {port: 8080, auth: {}}\n",
        "bridge.yaml:1:26: error[empty-auth] http.auth: name who may come in, or write none",
    ),
    "a person without a password": (
        "http: {port: 8080, auth: {olga: {role: operator}}}\n",
        "bridge.yaml:1:33: error[missing-key] http.auth.olga.password: is required",
    ),
    "a misspelt key of a person": (
        "http: {port: 8080, auth: {olga: {password: x, rule: viewer}}}\n",
        'bridge.yaml:1:47: error[unknown-key] http.auth.olga.rule: did you mean "role"?',
    ),
    "a person whose name can't be sent": (
        'http: {port: 8080, auth: {"a:b": {password: x}}}\n',
        "bridge.yaml:1:27: error[bad-name] http.auth.a:b: no colon in a name: Basic authentication ends it there",
    ),
    "a misspelt key of a test": (
        ROUTE + "tests:\n  - {name: t, message: {source: demo}, expect: {outcom: job}}\n",
        'bridge.yaml:7:49: error[unknown-key] tests[0].expect.outcom: did you mean "outcome"?',
    ),
    "a test of an unknown source": (
        ROUTE + "tests:\n  - {name: t, message: {source: dem}}\n",
        'bridge.yaml:7:33: error[unknown-source] tests[0].message.source: no source "dem": did you mean "demo"?',
    ),
    "a test that expects an unknown route": (
        ROUTE + "tests:\n  - {name: t, message: {source: demo}, expect: {route: demmo}}\n",
        'bridge.yaml:7:56: error[unknown-route] tests[0].expect.route: no route "demmo": did you mean "demo"?',
    ),
    "tests that are no list": (
        "tests: {name: t}\n",
        "bridge.yaml:1:8: error[wrong-type] tests: should be a list of tests",
    ),
    "a cron of six fields": (
        "recurring:\n  nightly: {cron: '0 0 3 * * *', handler: 'shop:place'}\n",
        "bridge.yaml:2:19: error[bad-cron] recurring.nightly.cron: a cron has five fields, not 6: minute, hour, day of "
        "the month, month, day of the week; for seconds write every: 10s",
    ),
    "a cron with a word of its own": (
        "recurring:\n  nightly: {cron: '@daily', handler: 'shop:place'}\n",
        'bridge.yaml:2:19: error[bad-cron] recurring.nightly.cron: write the five fields: "0 0 * * *"',
    ),
    "a cron out of range": (
        "recurring:\n  nightly: {cron: '0 25 * * *', handler: 'shop:place'}\n",
        "bridge.yaml:2:19: error[bad-cron] recurring.nightly.cron: not acceptable, out of range: write minute, hour, "
        "day of the month, month, day of the week, as in 0 3 * * *",
    ),
    "a cron of no date": (
        "recurring:\n  nightly: {cron: '0 0 30 2 *', handler: 'shop:place'}\n",
        "bridge.yaml:2:19: error[bad-cron] recurring.nightly.cron: no date fits it: it would never tick",
    ),
    "an unknown time zone": (
        "recurring:\n  nightly: {cron: '0 3 * * *', timezone: Europe/Amsterdm, handler: 'shop:place'}\n",
        "bridge.yaml:2:42: error[unknown-timezone] recurring.nightly.timezone: no time zone of this name: did you mean "
        '"Europe/Amsterdam"?',
    ),
    "both cron and every": (
        "recurring:\n  nightly: {cron: '0 3 * * *', every: 10m, handler: 'shop:place'}\n",
        'bridge.yaml:2:12: error[cron-or-every] recurring.nightly: give either cron ("0 3 * * *") or every (10m)',
    ),
    "neither": (
        "recurring:\n  nightly: {handler: 'shop:place'}\n",
        'bridge.yaml:2:12: error[cron-or-every] recurring.nightly: give either cron ("0 3 * * *") or every (10m)',
    ),
    "a duration under a second": (
        "recurring: {beat: {every: 100ms, handler: 'shop:place'}}\n",
        "bridge.yaml:1:27: error[wrong-value] recurring.beat.every: should be greater than or equal to 1",
    ),
    "an end without its zone": (
        "recurring: {beat: {every: 1s, until: 2026-12-31, handler: 'shop:place'}}\n",
        "bridge.yaml:1:38: error[bad-instant] recurring.beat.until: not an instant: write date, time and zone, as "
        "2026-12-31T23:00:00Z",
    ),
    "a misspelt key of a recurring job": (
        "recurring: {beat: {evry: 1s, every: 1s, handler: 'shop:place'}}\n",
        'bridge.yaml:1:20: error[unknown-key] recurring.beat.evry: did you mean "every"?',
    ),
    "a recurring job that is none": (
        "recurring: {beat: 10m, prune: true}\n",
        "bridge.yaml:1:19: error[wrong-type] recurring.beat: should be a mapping (key: value)",
    ),
    "an unknown handler of a recurring job": (
        "recurring: {beat: {every: 1s, handler: report}}\n",
        "bridge.yaml:1:40: error[bad-handler] recurring.beat.handler: no handler is called 'report': write "
        "module:function, or list its module under handlers",
    ),
    "a body that the handler of a recurring job can't take": (
        "recurring: {beat: {every: 1s, handler: 'bridge.demo:place_order', body: {id: 7}}}\n",
        "bridge.yaml:1:73: error[bad-body] recurring.beat.body: amount: Field required",
    ),
    "a key that stands twice": (
        "pod:\n  workers: 1\n  workers: 2\n",
        "bridge.yaml:3:3: error[duplicate-key] pod.workers: this key stands at line 2 already",
    ),
    "a missing key": (
        "sources: {demo: {queue: demo}}\nroutes:\n  - {from: demo, handler: 'shop:place'}\n",
        "bridge.yaml:3:5: error[missing-key] routes[0].name: is required",
    ),
    "a number that is none": (
        "pod: {workers: many}\n",
        "bridge.yaml:1:16: error[wrong-type] pod.workers: should be a whole number",
    ),
    "a number out of range": (
        "pod: {workers: 0}\n",
        "bridge.yaml:1:16: error[wrong-value] pod.workers: should be greater than or equal to 1",
    ),
    "a word that is not one of the known": (
        ROUTE + "    dedupe: {missing: rejct}\n",
        "bridge.yaml:6:23: error[wrong-value] routes[0].dedupe.missing: should be 'reject', 'content' or 'allow'",
    ),
    "a number where text belongs": (
        "brokers:\n  rabbit: {url: amqp://rabbit/, password: 1234}\n",
        "bridge.yaml:2:43: error[wrong-type] brokers.rabbit.password: should be text (put a number or true in quotes)",
    ),
    "a duration without its unit": (
        ROUTE + "    timeout: 30\n",
        "bridge.yaml:6:14: error[bad-duration] routes[0].timeout: not a duration: write a number and a unit of "
        "ms, s, m, h or d, such as 30s",
    ),
    "a size with a wrong unit": (
        "sources: {demo: {queue: demo, max_message_bytes: 1MB}}\n"
        "routes: [{name: a, from: demo, handler: 'shop:place'}]\n",
        "bridge.yaml:1:50: error[bad-size] sources.demo.max_message_bytes: not a size: write a number and a unit of "
        "KiB, MiB or GiB, such as 1MiB",
    ),
    "an unknown broker scheme": (
        "brokers: {rabbit: 'ampq://rabbit/'}\n",
        'bridge.yaml:1:19: error[unknown-scheme] brokers.rabbit.url: unknown scheme "ampq://": did you mean "amqp://"?',
    ),
    "an unknown store": (
        "store: oracle://db/jobs\n",
        'bridge.yaml:1:8: error[unknown-scheme] store.url: unknown scheme "oracle://": known are sqlite://, '
        "postgresql://, postgresql+psycopg://, mysql://, mysql+pymysql://, mariadb://, mariadb+pymysql://",
    ),
    "a URL whose password is not percent-encoded": (
        "store: postgresql://bob:p/ss@db/jobs\n",
        "bridge.yaml:1:8: error[bad-url] store.url: no host, or a port that is no number: in credentials / ? # @ : "
        "and % must be percent-encoded, or write them under username and password",
    ),
    "an in-memory SQLite": (
        "store: 'sqlite:///:memory:'\n",
        "bridge.yaml:1:8: error[bad-url] store.url: a SQLite URL names a file: sqlite:///relative.db or "
        "sqlite:////absolute/path.db",
    ),
    "an unknown source": (
        "sources: {demo: {queue: demo}}\nroutes:\n  - {name: a, from: demo, handler: 'shop:place'}\n"
        "  - {name: b, from: dem, handler: 'shop:place'}\n",
        'bridge.yaml:4:21: error[unknown-source] routes[1].from: no source "dem": did you mean "demo"?',
    ),
    "an unknown broker": (
        GOOD.replace("broker: rabbit", "broker: rabit"),
        'bridge.yaml:5:20: error[unknown-broker] sources.orders.broker: no broker "rabit": did you mean "rabbit"?',
    ),
    "two sources on one queue": (
        GOOD.replace("demo: {queue: demo}", "demo: {broker: rabbit, queue: orders}"),
        'bridge.yaml:7:33: error[shared-queue] sources.demo.queue: the source "orders" reads this queue already: '
        "each would get a part of it",
    ),
    "two sources in one group of a topic": (
        GOOD.replace("demo: {queue: demo}", "demo: {broker: events, topic: 'pattern:^pay'}"),
        'bridge.yaml:7:33: error[shared-topic] sources.demo.topic: the source "payments" reads this topic in the same '
        "group already: each would get a part of it",
    ),
    "two routes of one name": (
        GOOD.replace("name: payments", "name: orders"),
        "bridge.yaml:10:12: error[duplicate-route] routes[1].name: the route of line 9 has this name already",
    ),
    "a route behind one that takes all": (
        GOOD + "  - {name: late, from: demo, when: {type: a}, handler: 'shop:place'}\n",
        "bridge.yaml:12:5: error[unreachable-route] routes[3]: no message can reach it: routes[2] (line 11) takes all "
        "that it would match",
    ),
    "a test for what the broker has not": (
        GOOD.replace("from: demo,", "from: demo, when: {topic: a},"),
        "bridge.yaml:11:37: error[unreachable-route] routes[2].when.topic: no message of this source has a topic: "
        "no message can reach this route",
    ),
    "every-pod without an exchange": (
        GOOD.replace("queue: orders}", "queue: orders, delivery: every-pod}"),
        "bridge.yaml:5:53: error[every-pod-without-exchange] sources.orders.delivery: every-pod delivery needs an "
        "exchange that the pods' queues are bound to",
    ),
    "every-pod on the local queue": (
        GOOD.replace("queue: demo}", "queue: demo, delivery: every-pod}"),
        "bridge.yaml:7:33: error[wrong-value] sources.demo.delivery: should be 'shared'",
    ),
    "a short heartbeat on SQLite": (
        "store: sqlite:///jobs.db\npod: {heartbeat: 1s}\n",
        "bridge.yaml:2:18: error[heartbeat-too-short] pod.heartbeat: on SQLite it must be at least 2s",
    ),
    "a dedupe key of no known form": (
        ROUTE + "    dedupe: {key: orderid}\n",
        "bridge.yaml:6:19: error[bad-dedupe-key] routes[0].dedupe.key: a dedupe key is correlation_id, message_id, "
        "key, content, header:NAME or body:/json/pointer",
    ),
    "a name of recurring jobs": (
        ROUTE + "    dedupe: {namespace: 'recurring:nightly'}\n",
        "bridge.yaml:6:25: error[bad-name] routes[0].dedupe.namespace: names that begin with recurring: are those of "
        "recurring jobs",
    ),
    "a label of no known place": (
        ROUTE + "    labels: {customer: 'body:/customer'}\n",
        "bridge.yaml:6:24: error[bad-label] routes[0].labels.customer: a label's value is correlation_id "
        "or header:NAME",
    ),
    "a rate that is none": (
        ROUTE + "    rate: 100\n",
        "bridge.yaml:6:11: error[bad-rate] routes[0].rate: not a rate: write a number, a slash and 100ms to 1d, "
        "such as 100/10s",
    ),
    "a local queue of the outbox": (
        "sources: {demo: {queue: outbox/a}}\nroutes: [{name: r, from: demo, handler: 'shop:place'}]\n",
        "bridge.yaml:1:25: error[bad-name] sources.demo.queue: outbox/ is where messages of handlers wait: choose "
        "another name",
    ),
    "a bad JSON pointer": (
        ROUTE + "    dedupe: {key: 'body:id'}\n",
        "bridge.yaml:6:19: error[bad-dedupe-key] routes[0].dedupe.key: after body: stands a JSON pointer, such as "
        "body:/order/id",
    ),
    "Kafka's key elsewhere": (
        ROUTE + "    dedupe: {key: key}\n",
        "bridge.yaml:6:19: error[key-without-kafka] routes[0].dedupe.key: only Kafka's records have a key: use "
        "correlation_id, message_id, content, header:NAME or body:/..",
    ),
    "a test of something unknown": (
        ROUTE + "    when: {headers: a}\n",
        "bridge.yaml:6:12: error[bad-when] routes[0].when.headers: when tests header:NAME, routing_key, topic, type or "
        "content_type",
    ),
    "a key of another kind of source": (
        GOOD.replace("queue: demo}", "queue: demo, exchange: shop}"),
        "bridge.yaml:7:23: error[unknown-key] sources.demo.exchange: a key of RabbitMQ sources, which this is not",
    ),
    "SASL on AMQP": (
        "brokers:\n  rabbit: {url: 'amqp://rabbit/', sasl: {username: a, password: b}}\n",
        "bridge.yaml:2:35: error[sasl-without-kafka] brokers.rabbit.sasl: sasl is for Kafka: write username and "
        "password",
    ),
    "a missing reference": (
        "store: {url: 'postgresql://db/jobs', password: '${NOPE}'}\n",
        "bridge.yaml:1:48: error[missing-reference] store.password: the environment has no NOPE",
    ),
    "a missing reference that says why": (
        "store: {url: 'postgresql://db/jobs', password: '${NOPE:?ask the operators}'}\n",
        "bridge.yaml:1:48: error[missing-reference] store.password: the environment has no NOPE: ask the operators",
    ),
    "a missing secret file": (
        "store: {url: 'postgresql://db/jobs', password: '${file:/nowhere/at/all}'}\n",
        "bridge.yaml:1:48: error[missing-reference] store.password: can't read the file /nowhere/at/all: "
        "No such file or directory",
    ),
    "a reference of no known form": (
        "pod: {name: '${a b}'}\n",
        "bridge.yaml:1:13: error[bad-reference] pod.name: not a reference: write ${X}, ${X:-default}, ${X:?why} or "
        "${file:PATH}",
    ),
    "a reference that is not closed": (
        "pod: {name: '${X'}\n",
        "bridge.yaml:1:13: error[bad-reference] pod.name: a ${ without its }; a plain dollar sign is $$",
    ),
    "a reference without quotes": (
        "store:\n  {url: 'postgresql://db/jobs', username: ${X}}\n",
        'bridge.yaml:2:43: error[unquoted-reference]: quote the reference: in {..} and [..] YAML needs "${X}", in '
        "quotes",
    ),
    "no YAML": ("a: [1\n", "bridge.yaml:2:1: error[syntax]: not YAML: expected ',' or ']'"),
    "an alias without anchor, perhaps a password": (
        "store: {url: 'postgresql://db/jobs', password: *s3cret}\n",
        "bridge.yaml:1:48: error[syntax]: not YAML: an alias without its anchor; a value that begins with * must be in "
        "quotes",
    ),
    "a tag": (
        "pod: {name: !!python/name:os.system x}\n",
        "bridge.yaml:1:13: error[bad-tag] pod.name: tags have no meaning here",
    ),
    "a list at the top": ("- a\n", "bridge.yaml:1:1: error[wrong-type]: the file should be a mapping (key: value)"),
    "a handler that can't be imported": (
        ROUTE,
        "bridge.yaml:5:14: error[bad-handler] routes[0].handler: shop:place: can't import shop: ModuleNotFoundError: "
        "No module named 'shop'",
    ),
    "a handler that is not there": (
        ROUTE.replace("shop:place", "bridge.message:place"),
        "bridge.yaml:5:14: error[bad-handler] routes[0].handler: bridge.message:place: the module bridge.message has "
        "no place",
    ),
    "a handler that wants more than a body": (
        ROUTE.replace("shop:place", "shutil:move"),
        "bridge.yaml:5:14: error[bad-handler] routes[0].handler: shutil:move: the parameter 'dst' has no default: a "
        "handler takes its body by name, and a JobContext",
    ),
    "a handler by a name that nobody bears": (
        ROUTE.replace("shop:place", "orders.place"),
        "bridge.yaml:5:14: error[bad-handler] routes[0].handler: no handler is called 'orders.place': write "
        "module:function, or list its module under handlers",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_mistake_is_said_with_its_place_its_code_and_what_to_do(tmp_path: Path, name: str) -> None:
    text, expected = GOLDEN[name]
    found = said(tmp_path, text, import_handlers="handler" in name)
    assert [line for line in found if "warning[" not in line] == [expected]


def test_two_recurring_jobs_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the file and one at a function; and two at functions."""
    (tmp_path / "marked_twice.py").write_text(
        "from scheduler import job, recurring\n"
        "@recurring(every='1m', name='tidy')\n@job(name='tidy')\ndef tidy() -> None: ...\n"
        "@recurring(every='1m', name='sweep')\ndef sweep() -> None: ...\n"
        "@recurring(every='2m', name='sweep')\ndef broom() -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = "recurring: {tidy: {every: 1s, handler: tidy}}\nhandlers: [marked_twice]\n"
    assert sorted(said(tmp_path, text, import_handlers=True)) == [
        'bridge.yaml:2:12: error[duplicate-recurring] handlers[0]: "sweep" is the name of a recurring job already: '
        "handlers[0]",
        'bridge.yaml:2:12: error[duplicate-recurring] handlers[0]: "tidy" is the name of a recurring job already: '
        "recurring.tidy",
    ]
    assert said(tmp_path, text) == []


def test_an_extra_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is wrong there. Verbs that import no handlers serve no pages either."""
    monkeypatch.setattr("scheduler.extras.find_spec", lambda name: None)
    text = "store: {url: '${URL}', migrat: auto}\nhttp: {prt: 1}\n"
    found = said(tmp_path, text, import_handlers=True, URL="mysql://db/jobs")
    assert [line for line in found if "missing-extra" in line] == [
        "bridge.yaml:1:14: error[missing-extra] store.url: needs pymysql, not installed here: "
        "pip install 'jobbridge[mysql]'",
        "bridge.yaml:2:1: error[missing-extra] http: needs jinja2, markupsafe, prometheus_client, starlette, "
        "uvicorn, not installed here: pip install 'jobbridge[http]'",
    ]
    assert len(found) == 5
    assert said(tmp_path, "http: {port: 1}\n") == said(tmp_path, "store: 'postgresql://db/jobs'\n") == []


def test_one_mistake_hides_no_other(tmp_path: Path) -> None:
    """Of shape, of meaning, of references and of handlers: all in one pass."""
    text = """\
store: {url: postgres://db, migrat: auto}
brokers:
  rabbit: {url: "amqps://${NOPE}@rabbit/", tls: {ca: 5}}
sources:
  orders: {broker: rabit, queue: orders, batch: {max: 0}}
  a: {queue: one, otherwise: drop}
  b: {queue: one}
routes:
  - retires: 5
    from: ordres
    handler: "nowhere:at_all"
    retries: many
    priority: 3
    when: {headr: x}
  - {name: a, from: a, handler: "os:getcwd", dedupe: {key: key}}
  - {name: a, from: a, when: {type: b}, handler: "os:getcwd"}
pod: {heartbeat: soon, workers: 0}
tests: [{name: t, message: {source: b, bodi: x}}]
"""
    codes = [
        (line.split(":")[1], line.split("[")[1].split("]")[0]) for line in said(tmp_path, text, import_handlers=True)
    ]
    assert [code for code in codes if code[1] != "source-without-route"] == [
        ("1", "unknown-scheme"),
        ("1", "unknown-key"),
        ("3", "missing-reference"),
        ("3", "wrong-type"),
        ("5", "unknown-broker"),
        ("5", "wrong-value"),
        ("6", "wrong-value"),
        ("7", "shared-queue"),
        ("9", "missing-key"),
        ("9", "unknown-key"),
        ("10", "unknown-source"),
        ("11", "bad-handler"),
        ("12", "wrong-type"),
        ("13", "not-in-this-version"),
        ("14", "bad-when"),
        ("15", "key-without-kafka"),
        ("16", "unreachable-route"),
        ("16", "duplicate-route"),
        ("17", "bad-duration"),
        ("17", "wrong-value"),
        ("18", "unknown-key"),
    ]


def test_all_mistakes_are_in_the_error_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text("pod: {worker: 1, heartbeat: 1}\nsources: {a: {queue: a}}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(file, environ={})
    assert [mistake.code for mistake in caught.value.mistakes] == [
        "unknown-key",
        "bad-duration",
        "source-without-route",
    ]
    assert count_line(caught.value.mistakes) == "2 errors, 1 warning"
    assert str(caught.value).count("\n") == 2


def test_warnings_stop_nothing(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(ROUTE + "    timeout: 2m\n")
    examined = examine(file, environ={})
    assert examined.configuration is not None
    assert [(mistake.code, mistake.severity) for mistake in examined.mistakes] == [("timeout-over-grace", "warning")]


@pytest.mark.parametrize(
    ("earlier", "later", "hidden"),
    [
        ("{}", "{type: a}", True),
        ("{type: a}", "{type: a}", True),
        ("{type: 'a.*'}", "{type: a.b}", True),
        ("{type: '*'}", "{type: 'a.*'}", True),
        ("{type: a}", "{type: a, content_type: b}", True),
        ("{type: a, content_type: b}", "{type: a}", False),
        ("{type: a}", "{type: b}", False),
        ("{type: a.b}", "{type: 'a.*'}", False),
        ("{'header:x': 1.10}", "{'header:x': 1.1}", False),
    ],
)
def test_a_route_is_refused_where_no_message_can_reach_it(
    tmp_path: Path, earlier: str, later: str, hidden: bool
) -> None:
    text = (
        "sources: {a: {queue: a}}\nroutes:\n"
        f"  - {{name: one, from: a, when: {earlier}, handler: 'shop:place'}}\n"
        f"  - {{name: two, from: a, when: {later}, handler: 'shop:place'}}\n"
    )
    assert any("unreachable-route" in line for line in said(tmp_path, text)) is hidden


def test_a_mistake_in_what_aliases_repeat_is_said_once(tmp_path: Path) -> None:
    text = (
        "x-common: &common {retires: 5}\nsources: {a: {queue: a}}\nroutes:\n"
        "  - {name: a, from: a, when: {type: a}, handler: 'shop:place', <<: *common}\n"
        "  - {name: b, from: a, when: {type: b}, handler: 'shop:place', <<: *common}\n"
    )
    assert said(tmp_path, text) == ['bridge.yaml:1:20: error[unknown-key] routes[0].retires: did you mean "retries"?']


def test_no_file_is_a_mistake_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [mistake] = examine(None, environ={}).mistakes
    assert str(mistake) == (
        "bridge.yaml:1:1: error[no-file]: no configuration: looked for bridge.yaml and config/bridge.yaml; "
        "name one with -c"
    )
    [mistake] = examine(Path("other.yaml"), environ={}).mistakes
    assert str(mistake) == "other.yaml:1:1: error[no-file]: can't read it: No such file or directory"
