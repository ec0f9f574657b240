"""Dead letters: whole, the same on every pod, and storable whatever they hold."""

from hypothesis import given

from bridge.dead_letters import HEAD, dead_letter, envelope, message_of
from bridge.message import Message
from tests.unit.test_decode import MESSAGES


@given(MESSAGES)
def test_an_envelope_gives_the_message_back(message: Message) -> None:
    """All of it, byte for byte, through ASCII."""
    stored = envelope(message)
    assert stored.isascii()
    again = message_of(stored, message.body)

    def plain(one: Message) -> Message:
        # Nothing and the empty text or bytes are told apart nowhere.
        return Message(*(value or None for value in one))  # type: ignore[arg-type]

    assert plain(again) == plain(message)


def test_one_message_is_one_dead_letter() -> None:
    """By its coordinates, else by what it holds and why it was rejected."""

    def key(message: Message, reason: str = "r", source: str = "s") -> bytes:
        return dead_letter(source, message, reason, "d").id

    placed = Message(b"a", coordinates="t/0/1")
    assert key(placed) == key(placed, "other reason")
    assert key(placed) != key(placed._replace(coordinates="t/0/2"))
    assert key(placed) != key(placed, source="other")
    loose = Message(b"a", correlation=b"c")
    assert key(loose) == key(loose)
    assert len({key(loose), key(loose, "other"), key(loose._replace(body=b"b")), key(loose._replace(type="t"))}) == 4


def test_a_message_that_is_delivered_again_is_the_same_dead_letter() -> None:
    """A quorum queue counts deliveries in a header. Found by fault run rabbitmq, postgres, seed 1."""
    sent = Message(b"a", (("type", b"t"),), correlation=b"c")
    again = sent._replace(headers=(("type", b"t"), ("x-delivery-count", b"1")))
    first, second = dead_letter("s", sent, "r", "d"), dead_letter("s", again, "r", "d")
    assert first.id == second.id
    assert dead_letter("s", sent._replace(headers=()), "r", "d").id != first.id


def test_a_table_that_can_not_be_read_is_one_dead_letter_however_often_it_comes() -> None:
    """A quorum queue writes its count of deliveries into it, so its bytes and its error are others each time."""
    sent = Message(
        b"{}",
        headers=(("jobbridge-undecodable", b"\0\0\0\x03\x01aZ"),),
        correlation=b"poison-7",
        undecodable="a header table of 3 bytes",
    )
    again = sent._replace(
        headers=(("jobbridge-undecodable", b"\0\0\0\x16\x01aZ\x10x-delivery-count"),),
        undecodable="a header table of 22 bytes",
    )
    letter, twice = (dead_letter("s", one, "undecodable", str(one.undecodable)) for one in (sent, again))
    assert letter.id == twice.id
    assert message_of(letter.envelope, letter.body) == sent
    other = dead_letter("s", sent._replace(correlation=b"poison-8"), "undecodable", str(sent.undecodable))
    assert other.id != letter.id


def test_a_huge_body_leaves_its_head_its_length_and_its_digest() -> None:
    """So that a dead letter always fits."""
    letter = dead_letter("s", Message(b"x" * 5_000_000), "r", "d")
    small = dead_letter("s", Message(b"x"), "r", "d")
    assert (len(letter.body), letter.size) == (HEAD, 5_000_000)
    assert letter.digest != small.digest


def test_any_detail_can_be_stored() -> None:
    """No NUL and no lone surrogate reaches a database."""
    letter = dead_letter("s", Message(b"", coordinates="\0"), "r", "a\0b\ud800" + "x" * 9000)
    assert "\0" not in letter.detail + letter.coordinates
    letter.detail.encode()
    assert len(letter.detail) <= 2000
