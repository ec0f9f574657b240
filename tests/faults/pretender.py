"""A pod that believes it is the master, whatever the table of servers says: `jobbridge run` with that one change.

A frozen master that thaws believes so for a moment. Two masters at a time must do no harm (I13).
"""

from bridge.cli.main import main
from scheduler.membership import Membership

if __name__ == "__main__":
    Membership.is_master = property(lambda _: True, lambda *_: None)  # type: ignore[assignment]
    main()
