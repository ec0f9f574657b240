"""The dashboard: what the store knows as pages and as JSON, and what operators may do to it.

`application(configuration)` is an ASGI program: a pod serves it on its HTTP side, and any other web program can mount
it under a path. Pages need no JavaScript; with it they stay fresh by themselves.
"""

from bridge.dashboard.live import Live
from bridge.dashboard.serving import THREADS, Dashboard, application

__all__ = ["THREADS", "Dashboard", "Live", "application"]
