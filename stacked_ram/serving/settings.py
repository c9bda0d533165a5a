"""What `serve` can be told about its answers and its limits. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stacked_ram.runtime.errors import check


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Raises UserError for a value out of range."""

    top: int = 5
    """Classes named for each photo."""
    stop_at: float | None = None
    """Stop looking at a photo once one class has this probability, 0 to 1, as `predict` does."""
    stop_by: Literal["belief", "stop"] = "belief"
    """What --stop-at is compared with: the belief, or what the stopping head says (a model trained
    with learned_stop)."""
    coverage: float | None = None
    """Answer for this fraction of photos like those of validation (0 to 1), and mark the others as
    unknown; needs `test --calibrate` before."""
    batch_size: int = 16
    """The most photos that are looked at together; 1: each alone."""
    batch_wait: float = 5
    """Milliseconds that the first photo of a batch waits for others."""
    queue: int = 64
    """Requests in hand at one time; more are refused (503)."""
    rate: float = 100
    """Photos a second that one client address may send, on average; more are refused (429).
    0: any number."""
    time_limit: float = 30
    """Seconds that one request may take, its upload included; then it is refused (503)."""
    megapixels: float = 50
    """Millions of pixels of a photo; larger ones are refused (413)."""

    def __post_init__(self) -> None:
        for name in ("top", "batch_size", "queue"):
            value = getattr(self, name)
            check(value >= 1, f"--{name.replace('_', '-')}: {value} is below 1")
        for name in ("time_limit", "megapixels"):
            value = getattr(self, name)
            check(value > 0, f"--{name.replace('_', '-')}: {value} is not above 0")
        for name in ("batch_wait", "rate"):
            value = getattr(self, name)
            check(value >= 0, f"--{name.replace('_', '-')}: {value} is below 0")
