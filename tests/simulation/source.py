"""What the simulated sources have in common."""

from bridge.sources.source import Batch, Source


class NeverWaits(Source):
    """Goes before the product's source: its `receive` answers at once, and remembers that nothing was there."""

    starved = False

    def receive(self, timeout: float) -> Batch | None:
        batch = super().receive(0.0)  # type: ignore[safe-super]
        self.starved = batch is None
        return batch
