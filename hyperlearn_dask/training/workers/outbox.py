"""Steps on their way to workers: what a worker can do one after the other goes there as one task.

A task costs the scheduler and its worker more than a small step does. So steps of one worker that do not
wait for each other, the solves of its modalities, go together as a *bundle*; and so does what *leads* to
others with what reads it there: moves, what is made everywhere, and what brings rows of another worker's.
Nothing else follows within a bundle, as others may wait for what it gives. What leads waits for its readers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from dask import annotate
from distributed import Client, Future

from hyperlearn_dask.training.workers.on_worker import Order, Piece, Work, carry_out

LONGEST_NAME = 60  # of a task, in characters


@dataclass(eq=False)
class Bundle:
    """A task: the steps, or pieces of results, that a worker makes in it.

    ``stage``: higher than that of all it is after; pieces have that of what made them, and nobody waits for
    them but later stages. ``given``: of each step or piece what comes from elsewhere; ``after``: what else is
    waited for; ``leads``: whether all of it leads to others; ``held``: whether it was left behind once. What
    it is made of is forgotten once it is sent, and there is the ``future`` of the list of what that gives.
    """

    address: str
    stage: int
    what: list[Order | Piece] = field(default_factory=list)
    given: list[list[Bundle | Future]] = field(default_factory=list)
    after: list[Bundle] = field(default_factory=list)
    leads: bool = True
    held: bool = False
    future: Future | None = None

    @property
    def ended(self) -> bool:
        return self.future is not None and self.future.status != "pending"

    def add(
        self,
        what: Order | Piece,
        given: list[Bundle | Future],
        after: Iterable[Bundle],
        *,
        leads: bool = False,
    ) -> tuple[Bundle, int]:
        """Itself with one more, and the place of that."""
        self.what.append(what)
        self.given.append(given)
        self.leads = self.leads and leads
        self.after += [one for one in after if one is not self and not one.ended]
        return self, len(self.what) - 1

    def packed(self) -> tuple[Work, list[Future]]:
        """What the worker is to do, and all that comes from elsewhere or is waited for, each once."""
        came = list(dict.fromkeys(one for own in [*self.given, self.after] for one in own))
        place = {one: at for at, one in enumerate(came)}
        work = Work(self.what, [[place[one] for one in own] for own in self.given])
        return work, [_future(one) for one in came]

    @property
    def name(self) -> str:
        """Of its last kind of steps: ``solve-artist-tag`` of solve-artist and solve-tag."""
        kind = self.what[-1].name.partition("-")[0]
        rest = [what.name.partition("-") for what in self.what]
        return "-".join([kind, *dict.fromkeys(r[2] for r in rest if r[0] == kind and r[2])])[:LONGEST_NAME]


class Outbox:
    """The bundles of a client that wait to be sent."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._numbers = itertools.count()
        self._bundles: dict[tuple[str, ...], Bundle] = {}

    def bundle(
        self, address: str, leading: Iterable[Bundle], after: Iterable[Bundle], *, alone: bool = False
    ) -> Bundle:
        """The bundle that a step on a worker can go with.

        ``leading``: bundles of results that it may read in the same; ``after``: others that it waits for or
        is given of.
        """
        stages = [one.stage + (one.address != address) for one in leading if one.future is None]
        stages += [one.stage + 1 for one in after if one.future is None]
        return self._at(address, max(stages, default=0), str(next(self._numbers)) if alone else "")

    def pieces(self, made_in: Bundle, to: str) -> Bundle:
        """The bundle of pieces of what one gave, for the same receiver."""
        stage = made_in.stage if made_in.future is None else 0
        return self._at(made_in.address, stage, f"to {to}")

    def send(self, key: Callable[[str, int], tuple[Any, ...]], wanted: Iterable[Bundle]) -> None:
        """Send what waits, as one graph; what leads to nothing yet is left for the next time there is more.

        ``key``: of a task, by its name and a number of its own; ``wanted``: what is sent in any case.
        """
        asked = [*(one for one in self._bundles.values() if not one.leads), *wanted]
        if all(one.future for one in asked):
            return
        chosen = _with_all_before([*asked, *(one for one in self._bundles.values() if one.held)])
        bundles = [one for one in self._bundles.values() if one in chosen]
        assert len(bundles) == len(chosen), "what is waited for is here or was sent"
        self._bundles = {place: one for place, one in self._bundles.items() if one not in chosen}
        for left in self._bundles.values():
            left.held = True
        for bundle in bundles:
            bundle.future = Future(key(bundle.name, next(self._numbers)), self._client)
        works, given = zip(*(bundle.packed() for bundle in bundles))
        keys = [_future(bundle).key for bundle in bundles]
        places = {key: bundle.address for key, bundle in zip(keys, bundles)}
        # Each key's worker, asked for by the scheduler.
        with annotate(workers=places.__getitem__):
            self._client.map(carry_out, works, given, key=keys, pure=False)
        for bundle in bundles:
            bundle.what, bundle.given, bundle.after = [], [], []

    @property
    def leading(self) -> list[Bundle]:
        """What waits for those that it leads to."""
        return [one for one in self._bundles.values() if one.leads]

    def clear(self) -> None:
        """Send none of them."""
        self._bundles.clear()

    def _at(self, address: str, stage: int, which: str) -> Bundle:
        return self._bundles.setdefault((address, str(stage), which), Bundle(address, stage))


def _with_all_before(bundles: Iterable[Bundle]) -> set[Bundle]:
    """Those that are not sent, and all that they are after."""
    found: set[Bundle] = set()
    left = [*bundles]
    while left:
        one = left.pop()
        if one.future is None and one not in found:
            found.add(one)
            left += [other for own in [*one.given, one.after] for other in own if isinstance(other, Bundle)]
    return found


def _future(one: Bundle | Future) -> Future:
    found = one.future if isinstance(one, Bundle) else one
    assert found is not None, "it is sent with what it waits for, or was before"
    return found
