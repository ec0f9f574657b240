"""The handler of the benchmarks: the least that a handler can do, the same for all that are compared."""


def touch(body: dict[str, object]) -> None:
    """Look at the body."""
    assert body["id"] is not None
