"""Writes `RESULTS.md` from the JSON of runs in `results/` and the bugs in `found.md`: the same page of the same files.

A run's JSON is what `make faults` and `make soak` write; a simulation's has `seeds` in it. A key that is missing is
shown as a dash.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER / "RESULTS.md"

Result = dict[str, object]

HEAD = """\
# What was tried, and what came of it

Written by `python -m tests.faults.results` from the runs' own output in `results/`; don't edit it. A violation is a
promise that a run broke; an invalid run proves nothing and counts as none. How to run one: CONTRIBUTING.md.
"""


def read(folder: Path) -> list[Result]:
    """All results of a folder, in the order of their names."""
    return [json.loads(path.read_text()) | {"file": path.name} for path in sorted(folder.glob("*.json"))]


def is_simulation(result: Result) -> bool:
    return "kind" not in result and ("seeds" in result or "runs" in result)


def shown(value: object) -> str:
    """A cell of a table."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    return str(value).replace("|", "\\|").replace("\n", " ")


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """A Markdown table."""
    heads = list(heads)
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(shown, row))} |"


def _number(result: Result, key: str) -> float:
    value = result.get(key)
    return value if isinstance(value, int | float) else 0


def _faults(results: Iterable[Result]) -> Counter[str]:
    landed: Counter[str] = Counter()
    for result in results:
        kinds = result.get("faults")
        if isinstance(kinds, dict):
            landed.update({str(kind): int(number) for kind, number in kinds.items()})
    return landed


def _of_runs(title: str, results: list[Result]) -> Iterator[str]:
    if not results:
        return
    valid = [one for one in results if one.get("verdict") != "invalid"]
    worst = [float(str(one["worst_rescue_s"])) for one in valid if one.get("worst_rescue_s") is not None]
    yield f"\n## {title}\n"
    yield (
        f"{len(results)} runs, {len(results) - len(valid)} of them invalid; "
        f"{shown(sum(_number(one, 'minutes') for one in valid))} minutes, "
        f"{shown(int(sum(_number(one, 'faults_landed') for one in valid)))} faults landed, "
        f"{shown(int(sum(_number(one, 'messages') for one in valid)))} messages, "
        f"{shown(int(sum(_number(one, 'jobs') for one in valid)))} jobs, "
        f"**{shown(int(sum(_number(one, 'violations') for one in valid)))} violations**, "
        f"longest rescue {shown(max(worst, default=None))} s.\n"
    )
    keys = [
        "broker",
        "store",
        "delivery",
        "seed",
        "minutes",
        "faults_landed",
        "messages",
        "confirmed",
        "jobs",
        "rescued",
        "reexecuted",
        "ticks",
        "transactions",
        "pretenders",
        "violations",
        "worst_rescue_s",
        "verdict",
        "commit",
    ]
    yield from table([key.replace("_", " ") for key in keys], ([one.get(key) for key in keys] for one in results))
    yield f"\nMachine: {'; '.join(sorted({shown(one.get('machine')) for one in results}))}."
    yield "\nFaults that landed:\n"
    yield from table(["fault", "times"], sorted(_faults(valid).items()))


def _of_soaks(results: list[Result]) -> Iterator[str]:
    yield from _of_runs("Soak", results)
    for result in results:
        slopes = result.get("slopes")
        if isinstance(slopes, list) and slopes:
            keys = ["name", "median", "per_hour", "rise", "allowed", "flat"]
            yield f"\nOne pod through {shown(result.get('hours'))} hours, seed {shown(result.get('seed'))}:\n"
            yield from table(
                [key.replace("_", " ") for key in keys], ([one.get(key) for key in keys] for one in slopes)
            )


ALIASES = {
    "seeds": ("seeds", "first_seed"),
    "runs": ("runs",),
    "invalid": ("invalid",),
    "messages": ("messages",),
    "jobs": ("jobs",),
    "violations": ("violations",),
    "worst rescue s": ("worst_rescue_s", "worst_rescue_seconds"),
    "simulated hours": ("simulated_hours", "virtual_hours"),
    "hours per second": ("hours_per_second", "virtual_hours_per_second"),
    "commit": ("commit",),
}
"""Columns of a simulation, and the keys that a file may give them."""


def _of_simulations(results: list[Result]) -> Iterator[str]:
    if not results:
        return
    yield "\n## Simulation\n"
    yield from table(ALIASES, ([_found(one, keys) for keys in ALIASES.values()] for one in results))
    if landed := _faults(results):
        yield "\nFaults in them:\n"
        yield from table(["fault", "times"], sorted(landed.items()))


def _found(result: Result, keys: Iterable[str]) -> object:
    """The first of these that the file has; of many things, how many."""
    for key in keys:
        if key in result:
            value = result[key]
            if key == "first_seed":
                return f"from {value}"
            return len(value) if isinstance(value, list | dict) else value
    return None


def page(results: list[Result], found: str) -> str:
    """The whole page."""
    runs = [one for one in results if one.get("kind") == "faults"]
    soaks = [one for one in results if one.get("kind") == "soak"]
    lines = [
        HEAD.rstrip(),
        *_of_runs("Fault runs", runs),
        *_of_soaks(soaks),
        *_of_simulations([one for one in results if is_simulation(one)]),
        "",
        found.strip(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the page."""
    found = FOLDER / "found.md"
    PAGE.write_text(page(read(FOLDER / "results"), found.read_text() if found.exists() else ""))
    print(f"wrote {PAGE.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    main()
