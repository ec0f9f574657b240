"""What a file means once it is read: values, references, credentials, what is free and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.config.load import examine, load
from bridge.config.mistakes import ConfigurationError
from bridge.config.model import AmqpSourceSection, Configuration, KafkaSourceSection, LocalSourceSection
from bridge.config.schema import json_schema
from bridge.config.units import duration, duration_text, size, size_text

CANARY = "c4n@ry/:#?%41"
ENCODED = "c4n%40ry%2F%3A%23%3F%2541"


def loaded(tmp_path: Path, text: str, **environ: str) -> Configuration:
    file = tmp_path / "bridge.yaml"
    file.write_text(text)
    return load(file, environ=environ)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    found = loaded(tmp_path, "")
    assert (found.store.url, found.store.migrate, found.store.max_backlog) == (
        "sqlite:///jobbridge.db",
        "auto",
        100_000,
    )
    assert (found.pod.workers, found.pod.heartbeat, found.pod.grace) == (20, 15.0, 45.0)
    assert found.pod.name != ""
    assert found.retention.failed == 30 * 86400
    assert found.http is None


def test_a_source_is_of_its_brokers_kind(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "brokers: {rabbit: amqp://h, events: {url: 'kafka://a:1,b:2'}}\n"
        "sources:\n  a: {broker: rabbit, queue: q, batch: {max: 7, max_bytes: 1MiB, linger: 5ms}}\n"
        "  b: {broker: events, topic: t, max_message_bytes: 64KiB}\n  c: {queue: q}\n",
    )
    a, b, c = found.sources.values()
    assert isinstance(a, AmqpSourceSection) and isinstance(b, KafkaSourceSection) and isinstance(c, LocalSourceSection)
    assert (a.batch.max, a.batch.max_bytes, a.batch.linger) == (7, 1024**2, 0.005)
    assert (b.topic, b.group, b.max_message_bytes) == (("t",), "jobbridge", 64 * 1024)


def test_routes_say_what_defaults_leave_open(tmp_path: Path) -> None:
    [route] = loaded(
        tmp_path,
        "defaults: {retries: 3, backoff: {max: 10m}}\nsources: {a: {queue: a}}\n"
        "routes:\n  - {name: r, from: a, handler: m:f, backoff: {base: 500ms}, when: {type: 1.10, 'header:v': 007}}\n",
    ).routes
    assert route.backoff is not None
    assert (route.backoff.base, route.backoff.factor, route.backoff.max) == (0.5, 2.0, 600.0)
    assert route.retries is None and route.timeout is None
    assert (route.dedupe.key, route.dedupe.missing, route.dedupe.window) == ("correlation_id", "reject", 7 * 86400)
    assert route.when == {"type": "1.10", "header:v": "007"}, "compared as the text of the file"
    assert route.namespace == "r"


def test_yaml_is_1_2(tmp_path: Path) -> None:
    found = loaded(tmp_path, "sources: {on: {queue: no}, 5: {queue: 'yes'}}\npod: {name: 1:30}\n")
    assert list(found.sources) == ["on", "5"]
    assert found.pod.name == "1:30"


def test_x_keys_are_free_and_merge_keys_merge(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "x-a: &a {retries: 4, x-b: '${NOT_LOOKED_AT}'}\nx-c: [1, {d: !odd e}]\nstore: {x-note: hi}\n"
        "sources: {x-old: {gone: true}, a: {queue: a, batch: {max: 3, x-why: memory}}}\n"
        "routes:\n  - {name: r, from: a, handler: 'm:f', <<: *a, timeout: 1s}\n",
    )
    assert list(found.sources) == ["a"]
    assert (found.routes[0].retries, found.routes[0].timeout) == (4, 1.0)


def test_x_keys_in_the_body_of_a_job_are_data(tmp_path: Path) -> None:
    """They are what its handler is given; beside the body they are free."""
    found = loaded(tmp_path, "recurring: {n: {every: 1h, handler: 'm:f', x-a: b, body: {x-c: {x-d: 1}}}}\n")
    assert found.recurring.jobs()["n"].body == {"x-c": {"x-d": 1}}


def test_references_are_replaced_in_values(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    found = loaded(
        tmp_path,
        "store: {url: 'postgresql://${HOST}/jobs', username: '${NAME:-bob}', password: '${file:SECRET}'}\n"
        "sources: {a: {queue: 'a$$${NAME:-}b', batch: {max: '${MAX}'}}}\npod: {name: '${HOSTNAME:-}'}\n".replace(
            "SECRET", str(secret)
        ),
        HOST="db",
        MAX="12",
        HOSTNAME="pod-1",
        NAME="",
    )
    assert (found.store.url, found.store.username) == ("postgresql+psycopg://db/jobs", "bob")
    assert found.store.password is not None and found.store.password.get_secret_value() == "from a file"
    source = found.sources["a"]
    assert isinstance(source, LocalSourceSection)
    assert (source.queue, source.batch.max, found.pod.name) == ("a$b", 12, "pod-1")


def test_a_reference_cannot_change_the_structure(tmp_path: Path) -> None:
    hostile = "a, workers: 1}\nhttp: {port: 1"
    found = loaded(tmp_path, "store: {password: '${X}'}\n", X=hostile)
    assert found.store.password is not None and found.store.password.get_secret_value() == hostile
    assert found.pod.workers == 20 and found.http is None


@pytest.mark.parametrize(
    "access",
    [
        "{url: 'amqps://${U}:${P}@h/a%2Fb'}",
        "'amqps://${U}:${P}@h/a%2Fb'",
        f"'amqps://{ENCODED}:{ENCODED}@h/a%2Fb'",
        "{url: amqps://h/a%2Fb, username: '${U}', password: '${P}'}",
        "{url: 'amqps://other:one@h/a%2Fb', username: '${U}', password: '${P}'}",
    ],
)
def test_credentials_are_parted_from_the_url_whatever_they_hold(tmp_path: Path, access: str) -> None:
    broker = loaded(tmp_path, f"brokers: {{b: {access}}}", U=CANARY, P=CANARY).brokers["b"]
    assert broker.url == "amqps://h/a%2Fb"
    assert broker.password is not None
    assert (broker.username, broker.password.get_secret_value()) == (CANARY, CANARY)


@pytest.mark.parametrize(
    "access",
    [
        "'kafka://u:p@a:1,b:2'",
        "{url: 'kafka://a:1,b:2', username: u, password: p}",
        "{url: 'kafka://a:1,b:2', sasl: {username: u, password: p}}",
        "{url: 'kafka://x:y@a:1,b:2', sasl: {username: u, password: p}}",
    ],
)
def test_kafkas_credentials_are_its_sasl(tmp_path: Path, access: str) -> None:
    broker = loaded(tmp_path, f"brokers: {{b: {access}}}").brokers["b"]
    assert broker.url == "kafka://a:1,b:2"
    assert broker.sasl is not None
    assert (broker.sasl.mechanism, broker.sasl.username, broker.sasl.password.get_secret_value()) == ("PLAIN", "u", "p")


@pytest.mark.parametrize("written", ["postgresql", "postgresql+psycopg", "mysql", "mariadb"])
def test_a_store_gets_our_driver(tmp_path: Path, written: str) -> None:
    driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
    assert loaded(tmp_path, f"store: {written}://h/d").store.url == f"{driver.get(written, written)}://h/d"


WITH_SECRETS = """\
store: {url: 'postgresql://bob:%(c)s@db/jobs', password: '%(c)s'}
brokers:
  a: 'amqp://bob:%(c)s@h/'
  b: {url: 'kafka://bob:%(c)s@h', sasl: {username: bob, password: '%(c)s'}}
  c: {url: 'amqp://h', password: '${file:%(file)s}'}
"""


def test_secrets_show_nowhere(tmp_path: Path) -> None:
    """In no repr, no dump, no digest's input; and no mistake repeats one, wherever it was put by mistake."""
    file = tmp_path / "secret"
    file.write_text("CANARY")
    found = loaded(tmp_path, WITH_SECRETS % {"c": "${C}", "file": file}, C="CANARY")
    for shown in (repr(found), str(found), json.dumps(found.shown()), found.digest()):
        assert "CANARY" not in shown
    clear = loaded(tmp_path, WITH_SECRETS % {"c": "CANARY", "file": file})
    assert "CANARY" not in repr(clear) + json.dumps(clear.shown())


@pytest.mark.parametrize(
    "place",
    [
        "store: '@'",
        "store: {url: '@'}",
        "store: {url: 'postgresql://u:@@h:port/x'}",
        "store: {url: 'postgresql://h/x?password=@'}",
        "store: {url: 'sqlite://u:@@/x'}",
        "store: {url: 'nosql://u:@@h/x'}",
        "store: {migrate: '@'}",
        "store: {max_backlog: '@'}",
        "store: {password: ['@']}",
        "store: {password: {a: '@'}}",
        "store: ['@']",
        "brokers: {b: '@'}",
        "brokers: {b: {url: 'amqp://u:@/@h'}}",
        "brokers: {b: {url: kafka://h, sasl: {mechanism: '@', username: '@'}}}",
        "brokers: {b: {url: amqp://h, tls: '@'}}",
        "brokers: {b: {url: amqp://h, tls: {insecure: '@'}}}",
        "sources: {a: {broker: '@', queue: a}}",
        "sources: {a: {queue: a, delivery: '@', max_message_bytes: '@', batch: {linger: '@', max: '@'}}}",
        "routes: [{name: a, from: '@', handler: m:f, when: {type: ['@']}, retries: '@', timeout: '@'}]",
        "routes: [{name: a, from: a, handler: m:f, dedupe: {key: '@', missing: '@', window: '@'}}]",
        "pod: {workers: '@', heartbeat: '@'}",
        "http: {port: '@'}",
        "handlers: '@'",
    ],
)
def test_no_mistake_repeats_a_value_that_came_from_a_reference(tmp_path: Path, place: str) -> None:
    file = tmp_path / "bridge.yaml"
    for reference in ("${C}", "${C:?why}", f"${{file:{tmp_path / 'secret'}}}"):
        (tmp_path / "secret").write_text("CANARY")
        file.write_text(
            place.replace("'@'", f"'{reference}'").replace("@@", f"{reference}@").replace("=@", f"={reference}")
        )
        mistakes = examine(file, environ={"C": "CANARY"}).mistakes
        assert mistakes
        assert "CANARY" not in str(ConfigurationError(mistakes)) + json.dumps([one.as_json() for one in mistakes])


def test_the_digest_tells_configurations_apart_but_not_pods(tmp_path: Path) -> None:
    text = "sources: {a: {queue: a}}\npod: {name: '${N}', workers: %d}\n"
    one, same, other = (loaded(tmp_path, text % n, N=name) for n, name in ((1, "a"), (1, "b"), (2, "a")))
    assert one.digest() == same.digest() != other.digest()


def test_billion_laughs_are_refused(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    merges = ["b0: &b0 {k: v}"]
    merges += [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    for text in (
        "\n".join(levels),
        "\n".join(merges),
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "[" * 5000,
        "x: " + "y" * 1024**2,
    ):
        with pytest.raises(ConfigurationError) as caught:
            loaded(tmp_path, text)
        assert caught.value.mistakes[0].code in ("too-large", "too-deep", "syntax")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \x00", b"pod: {name: \x1b[31m}", "\ufeffpod: {}\n".encode()])
def test_bytes_that_are_no_text_are_a_mistake(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_bytes(content)
    examined = examine(file, environ={})
    if examined.configuration is None:
        assert [mistake.code for mistake in examined.mistakes] == ["syntax"]
    else:
        assert content.startswith("\ufeff".encode())


KEYS = st.sampled_from(
    (
        *("store", "brokers", "sources", "routes", "defaults", "retention", "handlers", "pod", "http", "url"),
        *("username", "password", "tls", "sasl", "queue", "topic", "broker", "batch", "max", "name", "from", "when"),
        *("handler", "dedupe", "key", "window", "retries", "backoff", "timeout", "workers", "x-a", "<<"),
    )
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        (
            "a",
            "amqp://h",
            "kafka://h",
            "sqlite:///x",
            "5s",
            "${X}",
            "${",
            "${file:/}",
            "body:/a",
            "os:getcwd",
            "pattern:(",
        )
    ),
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), st.dictionaries(KEYS, TREES, max_size=6).map(json.dumps), TREES.map(json.dumps)))
def test_any_file_gives_a_configuration_or_mistakes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        found = load(file, environ={})
    except ConfigurationError as error:
        assert error.mistakes
    else:
        assert isinstance(found, Configuration)
        found.digest()


def test_the_schema_admits_references_and_bare_urls() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    reference = {"type": "string", "pattern": "^\\$\\{"}
    assert reference in definitions["Pod"]["properties"]["workers"]["anyOf"]
    assert definitions["Pod"]["patternProperties"] == {"^x-": True}
    assert definitions["Route"]["required"] == ["name", "from", "handler"]
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert properties["brokers"]["additionalProperties"]["anyOf"][0]["type"] == "string"


@given(st.integers(0, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_are_shown_as_the_file_may_write_them(number: int, unit: str) -> None:
    seconds = duration(f"{number}{unit}")
    assert duration(duration_text(seconds)) == pytest.approx(seconds)


@given(st.integers(0, 2**40))
def test_sizes_are_shown_as_the_file_may_write_them(octets: int) -> None:
    assert size(size_text(octets)) == octets
