"""A title is text with names in it, whatever the names and the values hold."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.labels import FIELDS, checked_template, labels_of, title_of

JOB = {
    "id": "0123",
    "correlation_id": "order-7",
    "route": "orders",
    "handler": "shop:place",
    "source": "bus",
    "headers": '{"customer": "7 {id}", "": "x"}',
}


@pytest.mark.parametrize(
    ("template", "title"),
    [
        ("order {correlation_id}", "order order-7"),
        ("{id} {route} {handler} {source}", "0123 orders shop:place bus"),
        ("{header:customer} of {header:none}.", "7 {id} of ."),
        ("{{id}} {{{id}}} }}{{", "{id} {0123} }{"),
        ("no name", "no name"),
    ],
)
def test_names_become_values_and_values_stay_as_they_are(template: str, title: str) -> None:
    assert title_of(checked_template(template), JOB) == title


@pytest.mark.parametrize(
    "template", ["{", "}", "{id", "id}", "{}", "{body}", "{id.__class__}", "{id!r}", "{headers[customer]}", "{header:}"]
)
def test_what_is_no_name_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"brace|known are \{correlation_id\}"):
        checked_template(template)


def test_a_route_without_a_title_gives_none() -> None:
    assert title_of(None, JOB) is None


def test_labels_are_those_that_the_message_had() -> None:
    places = {"customer": "header:customer", "region": "header:region", "order": "correlation_id"}
    assert labels_of(places, JOB) == {"customer": "7 {id}", "order": "order-7"}
    assert labels_of({}, JOB) == {}


@given(st.lists(st.text() | st.sampled_from(["{", "}", *(f"{{{name}}}" for name in FIELDS)])).map("".join))
def test_any_template_is_refused_or_gives_a_title(template: str) -> None:
    with contextlib.suppress(ValueError):
        title = title_of(checked_template(template), JOB)
        assert title is not None and (title == template or "{" in template or "}" in template)
