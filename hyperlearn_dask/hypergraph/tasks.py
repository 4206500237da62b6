"""The same tasks on Dask's threads in this process, or on the workers of a cluster."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dask
import dask.threaded
from dask.callbacks import Callback

from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

_THREADS = dask.threaded.get  # asked for by name, Dask imports all of distributed

Handle = Any  # a task that was submitted; what it returns can be an argument of others


class Tasks:
    """Submit functions, by names that read well on the dashboard, and gather their results.

    An :class:`InputError` in a task passes through the tasks that need its result, as a value, and is
    raised by :meth:`gather`: raised on a worker it would fill the worker's log with a traceback.
    """

    def __init__(self, client: Client | None) -> None:
        self._client = client
        self._token = uuid.uuid4().hex[:8]  # another run's tasks of the same name are other tasks

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> Handle:
        """One task; ``name`` is unique among this object's. Lists may contain handles."""
        key = f"{name}-{self._token}"
        if self._client is not None:
            return self._client.submit(_guarded, function, *arguments, key=key, pure=False)
        return dask.delayed(_guarded, pure=False)(function, *arguments, dask_key_name=key)

    def keep(self, handles: Sequence[Handle], done: Callable[[int], object] | None = None) -> list[Handle]:
        """Have the results stay where they are made, as several other tasks need them.

        ``done`` is called with the position of each as it is finished; on a cluster that means waiting.
        """
        if self._client is not None:
            if done is not None:
                from distributed import as_completed

                position = {handle.key: number for number, handle in enumerate(handles)}
                for handle in as_completed(handles, loop=self._client.loop):
                    done(position[handle.key])
            return list(handles)
        with _told(handles, done) if done is not None else contextlib.nullcontext():
            return list(dask.persist(*handles, scheduler=_THREADS))

    def gather(self, handles: Sequence[Handle]) -> list[Any]:
        """The results, in order.

        Raises
        ------
        InputError
            The first that a task raised.
        """
        if self._client is not None:
            results = self._client.gather(list(handles))
        else:
            results = list(dask.compute(*handles, scheduler=_THREADS))
        for result in results:
            if isinstance(result, InputError):
                raise result
        return results


@contextlib.contextmanager
def _told(handles: Sequence[Handle], done: Callable[[int], object]) -> Iterator[None]:
    """Hear of the tasks that Dask's threads finish."""
    position = {handle.key: number for number, handle in enumerate(handles)}

    def finished(key: object, *_: object) -> None:
        if key in position:
            done(position[key])

    with Callback(posttask=finished):
        yield


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    for argument in arguments:
        for item in argument if isinstance(argument, list) else [argument]:
            if isinstance(item, InputError):
                return item
    try:
        return function(*arguments)
    except InputError as error:
        return error
