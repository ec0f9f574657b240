"""Which commit a result is of."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def commit() -> str:
    """The commit that runs; a plus says that the product's files differ from it."""
    short = _git("rev-parse", "--short=12", "HEAD")
    return (short + ("+" if _git("status", "--porcelain", "--", "bridge", "scheduler") else "")) if short else "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
