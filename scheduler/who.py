"""Who acts, for a job's history and for a pause."""

import getpass
import os
import socket

from scheduler.job import preview


def who() -> str:
    """`USER@HOST` of this process, printable; a user without a name is a number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return preview(f"{user}@{socket.gethostname()}".encode("utf-8", "surrogateescape"))[:255]
