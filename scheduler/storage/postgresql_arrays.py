"""Arrays as PostgreSQL's binary protocol takes them, packed whole.

psycopg's own dumper is called for each element; for the nine columns of a batch that was a quarter of an insert's work
in this process. The format is that of `array_recv` in PostgreSQL's `arrayfuncs.c`: the number of dimensions, whether a
NULL is among the elements, the elements' type, the size and the lower bound of the dimension, then each element behind
its length.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from struct import Struct, pack

from psycopg import Connection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_BYTEA, _INTEGER, _TEXT = 17, 23, 25
_head = Struct(">iiIii").pack
_length = Struct(">i").pack
_KEY = _length(16)


class _ByteaArray(bytes):
    OID = 1001


class _IntegerArray(bytes):
    OID = 1007


class _TextArray(bytes):
    OID = 1009


def keys(values: Sequence[bytes]) -> bytes:
    """A `bytea[]` whose elements have 16 bytes each; at least one."""
    return _ByteaArray(_head(1, 0, _BYTEA, len(values), 1) + _KEY + _KEY.join(values))


def byteas(values: Sequence[bytes]) -> bytes:
    """A `bytea[]`."""
    return _ByteaArray(_packed(_BYTEA, values))


def texts(values: Iterable[str]) -> bytes:
    """A `text[]`. PostgreSQL refuses a text that holds a NUL."""
    return _TextArray(_packed(_TEXT, [value.encode() for value in values]))


def integers(values: Sequence[int]) -> bytes:
    """An `integer[]`."""
    elements = pack(f">{2 * len(values)}i", *chain.from_iterable(zip(repeat(4), values, strict=False)))
    return _IntegerArray(_head(1, 0, _INTEGER, len(values), 1) + elements)


def _packed(of: int, values: Sequence[bytes]) -> bytes:
    lengths = map(_length, map(len, values))
    return _head(1, 0, of, len(values), 1) + b"".join(chain.from_iterable(zip(lengths, values, strict=True)))


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


def register(driver: Connection[tuple[object, ...]]) -> None:
    """Let this connection take packed arrays."""
    for array in (_ByteaArray, _IntegerArray, _TextArray):
        driver.adapters.register_dumper(array, type("_Dumper", (_PackedDumper,), {"oid": array.OID}))
