"""Extras: packages that not everyone needs, which `pip install 'jobbridge[NAME]'` brings."""

from importlib.util import find_spec


def lacking(extra: str, *packages: str) -> str | None:
    """What to say where packages of this extra are not installed; None: they are."""
    absent = [name for name in packages if find_spec(name) is None]
    return f"needs {', '.join(absent)}, not installed here: pip install 'jobbridge[{extra}]'" if absent else None
