"""A pod whose clock is wrong: on its path, this shifts `time.time` by FAULTS_CLOCK_OFFSET seconds.

Does not promise to shift what C code asks for itself (`datetime.now`); pods compare no such time.
"""

import os
import time

_offset = float(os.environ.get("FAULTS_CLOCK_OFFSET", "0"))
_true = time.time
_true_ns = time.time_ns

if _offset:
    time.time = lambda: _true() + _offset
    time.time_ns = lambda: _true_ns() + int(_offset * 1e9)
