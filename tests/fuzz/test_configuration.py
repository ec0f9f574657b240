"""Whatever a configuration file holds: a configuration or mistakes, in bounded time and words, with no secret."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge.config.load import examine
from bridge.config.mistakes import ConfigurationError
from bridge.config.references import ReferenceMistake, resolve
from bridge.config.urls import BROKER_SCHEMES, STORE_SCHEMES, split

CANARY = "C4N4RY"
ENVIRON = {"A": CANARY, "B": f"amqp://u:{CANARY}@h/", "C": f"{CANARY}: [&a *a", "EMPTY": ""}
TOKENS = [
    *("store", "brokers", "sources", "routes", "defaults", "pod", "http", "handlers", "retention", "url", "password"),
    *("username", "tls", "sasl", "key", "queue", "topic", "broker", "batch", "max", "name", "from", "when", "handler"),
    *("dedupe", "window", "retries", "backoff", "timeout", "x-a", "lock", "recurring", "header:a", "content", "m:f"),
    *(
        ": ",
        ": ",
        ": ",
        "\n",
        "\n",
        "\n  ",
        "\n    ",
        "\n- ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "? ",
        "| ",
        "> ",
        "#",
        " ",
    ),
    *("&a ", "*a", "<<", "!!python/object/apply:os.system ", "!!binary ", "!!set ", "!x ", "%YAML 1.1\n---\n", "---\n"),
    *(
        "...\n",
        "'",
        '"',
        "\\x41",
        "\t",
        "\r\n",
        "~",
        "null",
        "yes",
        "0x1F",
        "0o7",
        "1e999",
        ".nan",
        "2001-01-01",
        "1_0",
    ),
    *('"${A}"', '"${B}"', '"${C}"', "${A}", '"${A:-x}"', '"${NONE:?why}"', '"${file:/dev/null}"', '"$$"', '"${"', "5s"),
    *(
        "1MiB",
        "amqp://h",
        "kafka://h:1,i",
        "sqlite:///x",
        "postgresql://u:p@h/d",
        "\u2028",
        "\ufeff",
        "é",
        "\U0001f600",
    ),
]
files = st.lists(st.sampled_from(TOKENS), max_size=40).map("".join)


def examined(folder: Path, content: bytes) -> str:
    """All that is said about a file with this content."""
    file = folder / "bridge.yaml"
    file.write_bytes(content)
    found = examine(file, environ=ENVIRON)
    assert (found.configuration is None) == any(one.severity == "error" for one in found.mistakes)
    for mistake in found.mistakes:
        assert len(str(mistake)) < 2000
        assert str(mistake).isprintable()
        assert mistake.where.line >= 1 and mistake.where.column >= 1
    shown = repr(found.configuration) + str(ConfigurationError(found.mistakes))
    if found.configuration is not None:
        found.configuration.digest()
        shown += str(found.configuration.shown())
    return shown


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files)
@example('brokers: {a: {url: kafka://h, username: u, password: "${A}"}}\nstore: {password: "${A}"}')
@example("store: !!python/object/apply:os.system [ls]")
def test_any_tokens_of_yaml_are_a_configuration_or_mistakes(tmp_path: Path, text: str) -> None:
    examined(tmp_path, text.encode())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_mistakes(tmp_path: Path, content: bytes) -> None:
    examined(tmp_path, content)


PLACES = [
    "store: {{password: {}}}",
    "store: {{url: 'postgresql://h/d', username: u, password: {}}}",
    "brokers: {{a: {{url: 'amqp://h', password: {}}}}}",
    "brokers: {{a: {{url: 'kafka://h', sasl: {{username: u, password: {}}}}}}}",
    "brokers: {{a: {{url: 'kafka://h', sasl: {{mechanism: {}}}}}}}",
    "brokers: {{a: {}}}",
    "store: {}",
]
values = st.recursive(
    st.sampled_from(['"${A}"', '"${B}"', '"x ${A} y"', '"amqp://u:${A}@h"', '"kafka://${A}:x"', '"${A"', "null", "5"]),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda some: f"[{', '.join(some)}]")
        | st.dictionaries(st.sampled_from(["url", "password", "sasl", "odd"]), inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs.items()) + "}"
        )
    ),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=values)
def test_a_secret_in_any_shape_in_its_place_is_never_said(tmp_path: Path, place: str, value: str) -> None:
    """What a reference stands for shows in no mistake; nor does a password that was read."""
    if place.startswith(("store: {}", "brokers: {{a: {}}}")) or "mechanism" in place:
        value = value.replace("kafka://${A}", "kafka://h")  # a host is shown, and is no secret
    said = examined(tmp_path, place.format(value).encode())
    assert CANARY not in said


@given(st.text(max_size=60), st.dictionaries(st.sampled_from(["A", "B"]), st.text(max_size=10)))
@example("${A}", {"A": "${B}"})
@example("amqp://${A}@h", {"A": "u:p@x/"})
def test_a_reference_gives_a_text_or_a_mistake(text: str, environ: dict[str, str]) -> None:
    try:
        resolved = resolve(text, environ)
    except ReferenceMistake as mistake:
        assert mistake.code in ("bad-reference", "missing-reference")
    else:
        assert len(resolved) <= len(text) + 90 * text.count("$")


@given(st.text(max_size=60) | st.from_regex(r"(amqp|kafka|sqlite|mysql)://[^\n]{0,30}", fullmatch=True))
def test_a_url_is_parted_from_its_credentials_or_refused(url: str) -> None:
    for schemes in (STORE_SCHEMES, BROKER_SCHEMES):
        try:
            found = split(url, schemes)
        except ValueError as error:
            assert len(str(error)) < 500
        else:
            assert "@" not in found.url.partition("?")[0] or found.url.startswith("sqlite")
            assert split(found.url, dict.fromkeys([found.url.partition("://")[0]], found.url.partition("://")[0]))


SIZE = 64 * 1024
HOSTILE = {
    "opened braces": b"{" * (SIZE // 8),  # the parser's time grows with the square of the depth
    "opened brackets": b"a: " + b"[" * (SIZE // 8),
    "dashes": b"- " * (SIZE // 2),
    "question marks": b"? " * (SIZE // 2),
    "anchors": b"\n".join(b"a%d: &a%d x" % (place, place) for place in range(4000)),
    "one long key": b"k" * SIZE + b": 1",
    "one long text": b"x: '" + b"''" * (SIZE // 2) + b"'",
    "escapes": b'x: "' + b"\\u0041" * (SIZE // 6) + b'"',
    "digits": b"pod: {workers: " + b"9" * SIZE + b"}",
    "references": b'x-a: "' + b"${A}" * (SIZE // 4) + b'"\nstore: "' + b"${A:-x}" * (SIZE // 8) + b'"',
    "opened references": b'store: "' + b"${" * (SIZE // 2) + b'"',
    "a long URL": b"store: postgresql://" + b"u:" * (SIZE // 4) + b"@h" * (SIZE // 8),
    "many hosts": b"brokers: {a: 'kafka://" + b"h:1," * (SIZE // 4) + b"h'}",
    "a long pointer": b"routes: [{name: a, from: a, handler: 'm:f', dedupe: {key: 'body:"
    + b"/~" * (SIZE // 2)
    + b"'}}]",
    "unknown keys": b"\n".join(b"k%d: 1" % place for place in range(5000)),
    "a pattern": b"brokers: {b: kafka://h}\nsources: {a: {broker: b, topic: 'pattern:" + b"(a" * 5000 + b"'}}",
    "long duration": b"pod: {heartbeat: " + b"1" * SIZE + b"s}",
    "tabs": b"\t" * SIZE,
    "carriage returns": b"\r" * SIZE,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_read_in_time(tmp_path: Path, name: str) -> None:
    """64 KiB, in CPU time that grows with its size."""
    started = time.thread_time()
    examined(tmp_path, HOSTILE[name])
    assert time.thread_time() - started < 10
