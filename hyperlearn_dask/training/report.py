"""What training tells about itself, sweep by sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SweepReport:
    """One sweep: the objective after it, its parts, the step taken and the time each part took.

    ``parts``: the summands of F by name (``fit made``, ``graph artist``, ``ridge``); ``step``: the
    alpha along the proposed direction (None of a posterior draw); ``seconds``: the whole sweep;
    ``seconds_by``: by the name of the step (``solve-artist``, ``mttkrp-made-0``); ``bytes_by``: what
    the step was given by other workers, in the same way (workers tell both a few times a second, so of sweeps
    shorter than that they come with one of the next); ``validation``: how the held-out hyperedges are
    told (RMSE of values, MRR of ranks), where some are held out, and ``best``, whether no sweep before
    did as well.
    """

    sweep: int
    objective: float
    parts: dict[str, float] = field(default_factory=dict)
    step: float | None = None
    seconds: float = 0.0
    seconds_by: dict[str, float] = field(default_factory=dict)
    bytes_by: dict[str, int] = field(default_factory=dict)
    validation: float | None = None
    best: bool = False

    @property
    def kind(self) -> str:
        """Whether it is a sweep of the optimisation or a posterior draw."""
        return "draw" if self.step is None else "sweep"


OnSweep = Callable[[SweepReport], None]
