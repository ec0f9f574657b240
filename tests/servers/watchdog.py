"""The directory of one run's servers, and the process that ends them with the run.

Promises: once the process that made a `RunDirectory` is gone, however it went (normal end, Ctrl-C, SIGKILL), no
server in it runs and the directory is deleted. The watchdog reads from a pipe whose other end only the owner holds:
end of file is the owner's end. The normal end takes the same way, so it is tested by every run.
Does not promise: anything where the watchdog itself is killed by hand before the owner.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers.processes import processes_in, send, wait_until

PREFIX = "jobbridge-"


class RunDirectory:
    """Where the servers of one run keep their data; xdist's workers share that of their controller."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
        self.path.chmod(0o711)  # PostgreSQL runs as another user and must pass through
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.watchdog", str(self.path)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests, not for who cleans up after them
        )

    def close(self) -> None:
        """End all servers in it and delete it."""
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        self._watchdog.wait()


def end_all(directory: Path) -> None:
    """Kill whatever works in the directory, then delete it."""
    send(directory, signal.SIGKILL)
    wait_until(lambda: not processes_in(directory), seconds=10)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait for the owner's end."""
    directory = Path(sys.argv[1])
    if not directory.name.startswith(PREFIX):
        raise SystemExit(f"{directory} is not the directory of a run")
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
    end_all(directory)


if __name__ == "__main__":
    main()
