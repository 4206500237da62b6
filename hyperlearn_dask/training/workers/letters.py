"""What goes with a step to its worker: in the place of every handle, where the worker finds the value."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

from distributed import Future

from hyperlearn_dask.backend import Device
from hyperlearn_dask.training.executor import Key
from hyperlearn_dask.training.workers.handles import Anywhere, Part, Result, Split, Sum, within
from hyperlearn_dask.training.workers.on_worker import Form, Given, Kept, Moved, Together, has_large
from hyperlearn_dask.training.workers.outbox import Bundle


class Office(Protocol):
    """Who sends letters: what results travel by, and the numbers that they are kept under."""

    device: Device
    whole: bool
    numbers: itertools.count[int]

    def result(self, address: str, number: int, *, leads: bool) -> Result: ...

    def hand_out(self, part: Part, form: Form, to: str) -> tuple[Bundle, int]: ...


class Letter:
    """The arguments of one step on their way to its worker."""

    def __init__(self, office: Office, address: str) -> None:
        self._office = office
        self._address = address
        self.given: list[Bundle | Future] = []
        self.after: list[Bundle] = []  # what else is waited for
        self.sent: list[tuple[int, int | None]] = []  # what of those that are given, by its place there
        self.reads: list[Result] = []
        self.copies: list[Result] = []

    def enclose(self, part: Part | Split | Anywhere | Future) -> Any:
        """What stands for a part in the order, and what must come along."""
        if isinstance(part, Anywhere):
            return self.enclose(part.at(self._address))
        if isinstance(part, Split):
            return Together(tuple(self.enclose(one) for one in part.parts), part.kind == "rows")
        if isinstance(part, Future):
            return self._sent(part, None, (), None)
        result = part.result
        if result.address == self._address:
            return self._kept(result, part.path)
        copy = result.copies.get((self._address, part.path))
        if isinstance(copy, Result):
            return self._kept(copy, ())
        new = None
        if part.shared:
            new = self._office.result(self._address, next(self._office.numbers), leads=True)
            result.copies[self._address, part.path] = new
            self.copies.append(new)
        keep_as = None if new is None else new.number
        if isinstance(copy, Sum) and keep_as is not None:
            alpha = copy.alpha if isinstance(copy.alpha, float) else self.enclose(copy.alpha)
            return Moved(self.enclose(copy.start), self._kept(copy.along, ()), alpha, keep_as)
        if part.told and not has_large(value := within(result.value, part.path)):
            return value  # it has been here, so this step depends on none before
        self.reads.append(result)
        if self._office.whole or part.told:
            return self._sent(result.made_in, result.item, part.path, keep_as)
        form: Form = "as it is" if self._office.device == "cpu" else "parcel"
        pieces, item = self._office.hand_out(part, form, self._address)
        return self._sent(pieces, item, (), keep_as, packed=form == "parcel")

    def _sent(
        self,
        what: Bundle | Future,
        item: int | None,
        path: tuple[Key, ...],
        keep_as: int | None,
        packed: bool = False,
    ) -> Given:
        self.sent.append((len(self.given), item))
        self.given.append(what)
        return Given(len(self.given) - 1, item, path, keep_as, packed)

    def _kept(self, result: Result, path: tuple[Key, ...]) -> Kept:
        self.reads.append(result)
        if result.receipt is not None:
            self.after.append(result.receipt)
        return Kept(result.number, path)
