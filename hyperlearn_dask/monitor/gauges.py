"""What Prometheus is told: of trainings by the scheduler, of steps by each worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import REGISTRY, Counter
from prometheus_client.core import GaugeMetricFamily

from hyperlearn_dask.monitor.board import Board, Training

# Dask serves the default registry of each process at /metrics.
_SECONDS = Counter("hyperlearn_step_seconds", "Seconds this worker has spent on a step", ["step"])
_BYTES = Counter(
    "hyperlearn_step_received_bytes", "Bytes that others have given this worker for it", ["step"]
)


def count_step(name: str, seconds: float, received: int) -> None:
    """Count a step of this worker; those named after their sweep as one."""
    kind, _, number = name.partition("-")
    label = kind if number.isdecimal() else name
    _SECONDS.labels(label).inc(seconds)
    _BYTES.labels(label).inc(received)


Value = Callable[[Training], float | None]
_GAUGES: dict[str, tuple[str, Value]] = {
    "running": ("1 while training goes on, 0 when it has ended", lambda t: float(t.ended is None)),
    "workers": ("Workers that training was placed on", lambda t: float(len(t.workers))),
    "sweep": ("The last sweep (of posterior sampling: draw)", lambda t: float(t.points[-1].sweep)),
    "objective": ("F after the last sweep", lambda t: t.points[-1].objective),
    "step_length": ("Alpha along the direction of the last sweep", lambda t: t.points[-1].step),
    "sweep_seconds": ("Seconds that the last sweep took", lambda t: t.points[-1].seconds),
}
_BEFORE_SWEEPS = ("running", "workers")


class Collector:
    """Gauges of the trainings on a board, by ``training``: the number it has there."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def describe(self) -> list[Any]:
        return []  # none of its own, so that it can stand beside another scheduler's

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The last sweep of every training."""
        for name, (text, value) in _GAUGES.items():
            family = GaugeMetricFamily(f"hyperlearn_{name}", text, labels=["training"])
            for run, training in self._board.trainings.items():
                if training.points or name in _BEFORE_SWEEPS:
                    known = value(training)
                    if known is not None:
                        family.add_metric([run], known)
            yield family

    def register(self) -> None:
        """Be served with the metrics of this process."""
        REGISTRY.register(self)

    def unregister(self) -> None:
        """Be served no more."""
        REGISTRY.unregister(self)
