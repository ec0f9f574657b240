"""Writes `RESULTS.md` from the JSON of runs in `results/` and the bugs in `found.md`: the same page of the same files.

A run's JSON is what `make faults`, `make soak`, `make simulate` and `make stateful` write. A key that is missing is a
dash.
"""

import json
from collections import Counter, defaultdict
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
    """All results of a folder, in the order of their files' names; a file may hold many."""
    found: list[Result] = []
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_text())
        found += told if isinstance(told, list) else [told]
    return found


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


def _total(results: Iterable[Result], key: str) -> float:
    return sum(_number(one, key) for one in results)


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
        f"{shown(_total(valid, 'minutes'))} minutes, "
        f"{shown(_total(valid, 'faults_landed'))} faults landed, "
        f"{shown(_total(valid, 'messages'))} messages, "
        f"{shown(_total(valid, 'jobs'))} jobs, "
        f"**{shown(_total(valid, 'violations'))} violations**, "
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


def _of_simulations(results: list[Result]) -> Iterator[str]:
    """A row for each commit: a long simulation is many commands, each of other seeds."""
    if not results:
        return
    yield "\n## Simulation\n"
    yield f"{shown(_total(results, 'runs'))} seeds, each once at the commit of its row.\n"
    by_commit: dict[object, list[Result]] = defaultdict(list)
    for result in results:
        by_commit[result.get("commit")].append(result)
    heads = ["seeds", "runs", "messages", "jobs", "rescues", "simulated hours", "hours per second of CPU"]
    yield from table([*heads, "invalid", "violations", "worst rescue s", "commit"], map(_simulated, by_commit.values()))
    if landed := _faults(results):
        yield "\nFaults in them:\n"
        yield from table(["fault", "times"], sorted(landed.items()))


def _simulated(results: list[Result]) -> list[object]:
    """The row of a commit."""
    hours = _total(results, "virtual_hours")
    return [
        ", ".join(_spans((int(_number(one, "first_seed")), int(_number(one, "runs"))) for one in results)),
        *(_total(results, key) for key in ("runs", "messages", "jobs", "rescues")),
        hours,
        f"{hours / max(_total(results, 'cpu_seconds'), 1e-9):.3f}",
        *(sum(_many(one.get(key)) for one in results) for key in ("invalid", "violations")),
        max(_number(one, "worst_rescue_seconds") for one in results),
        results[0].get("commit"),
    ]


def _many(found: object) -> int:
    """How many seeds are told of."""
    return len(found) if isinstance(found, dict) else 0


def _spans(parts: Iterable[tuple[int, int]]) -> Iterator[str]:
    """`1 to 4,000` of the first seeds and numbers of parts that follow each other."""
    spans: list[list[int]] = []
    for first, number in sorted(parts):
        if spans and spans[-1][1] == first - 1:
            spans[-1][1] += number
        else:
            spans.append([first, first + number - 1])
    return (f"{shown(first)} to {shown(last)}" for first, last in spans)


def _of_stateful(results: list[Result]) -> Iterator[str]:
    if not results:
        return
    yield "\n## Stateful tests\n"
    yield "Random orders of the stores' verbs, compared with a dictionary after each step.\n"
    keys = ["database", "seed", "examples", "steps", "violations", "commit"]
    yield from table(keys, ([one.get(key) for key in keys] for one in results))


def page(results: list[Result], found: str) -> str:
    """The whole page."""
    runs = [one for one in results if one.get("kind") == "faults"]
    soaks = [one for one in results if one.get("kind") == "soak"]
    lines = [
        HEAD.rstrip(),
        *_of_runs("Fault runs", runs),
        *_of_soaks(soaks),
        *_of_simulations([one for one in results if one.get("kind") == "simulation"]),
        *_of_stateful([one for one in results if one.get("kind") == "stateful"]),
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
