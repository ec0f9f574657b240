"""A member of a consumer group in a process of its own, which a test may kill: `python -m ... URL TOPIC GROUP`.

It receives, acks nothing, and prints a line for each batch.
"""

import sys
import threading

from bridge.config.model import Broker, KafkaSourceSection
from bridge.sources.kafka import KafkaSource


def main() -> None:
    url, topic, group = sys.argv[1:]
    section = KafkaSourceSection.model_validate({"broker": "events", "topic": topic, "group": group})
    source = KafkaSource("member", Broker(url=url), section, pod_name="member", session_timeout=3)
    threading.Thread(target=source.run, daemon=True).start()
    while True:
        batch = source.receive(1)
        if batch is not None:
            print(len(batch.messages), flush=True)


if __name__ == "__main__":
    main()
