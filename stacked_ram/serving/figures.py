"""What `/metrics` says, in the format of Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128)


class Figures:
    """The counts of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        about: dict[str, Any] = {"namespace": "stacked_ram", "registry": self.registry}
        self.requests = Counter("requests", "Photos sent, by status.", ["status"], **about)
        self.classes = Counter("answers", "Answers, by class.", ["predicted"], **about)
        self.seconds = Histogram(
            "answer_seconds", "From the start of a request to its answer.", buckets=SECONDS, **about
        )
        self.batches = Histogram(
            "batch_photos", "Photos looked at together.", buckets=PHOTOS, **about
        )
        self.glimpses = Counter("glimpses", "Glimpses taken.", **about)
        self.in_hand = Gauge("in_hand", "Requests that are being answered.", **about)
