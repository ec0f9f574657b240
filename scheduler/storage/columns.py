"""Column types that mean the same in every database. The migrations use them too: never change one, add another."""

from sqlalchemy import BigInteger, Integer, LargeBinary, String, Text
from sqlalchemy.dialects import mysql

_MYSQL_FAMILY = ("mysql", "mariadb")


def key() -> LargeBinary:
    """16 bytes: a job's id, a server's id, a digest."""
    return LargeBinary(16).with_variant(mysql.BINARY(16), *_MYSQL_FAMILY)


def octets(length: int) -> LargeBinary:
    """A few bytes of any kind."""
    return LargeBinary(length).with_variant(mysql.VARBINARY(length), *_MYSQL_FAMILY)


def blob() -> LargeBinary:
    """Bytes without a bound of their own."""
    return LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL_FAMILY)


def name(length: int) -> String:
    """Text that is compared by case and accents, as MySQL's defaults don't; there `Database.among` sees to trailing
    blanks."""
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(exact, *_MYSQL_FAMILY)


def long_text() -> Text:
    """Text without a bound of its own; ASCII JSON or a stack trace."""
    return Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL_FAMILY)


def counted() -> BigInteger:
    """A number that the database counts up by itself."""
    return BigInteger().with_variant(Integer(), "sqlite")
