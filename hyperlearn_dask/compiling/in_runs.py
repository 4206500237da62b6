"""Loops that all threads share, compiled by Numba.

Numba compiles its own (``parallel=True`` and ``prange``) several times over, in a second or two for each,
when the loop itself takes a fraction of one. Here it is a plain compiled function of a run of its numbers,
and the runs are handed to Numba's threads directly.
"""

from __future__ import annotations

import hashlib
import operator
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import Flags
from numba.core.cpu_options import FastMathOptions
from numba.extending import intrinsic

from hyperlearn_dask.compiling.saving import save_in_turn

save_in_turn()

_INDEX, _FLAG = ir.IntType(64), ir.IntType(8)
_BYTES = ir.IntType(8).as_pointer()
# What Numba's threads are given to do: (addresses, counts, steps, data) -> nothing
_TASK = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), *[_INDEX.as_pointer()] * 2, _BYTES])
_ON_THREADS = ir.FunctionType(ir.VoidType(), [*[_BYTES] * 5, *[_INDEX] * 3])
# Of what is compiled by this file as it is: what another one has compiled is not found again.
_EDITION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
# Some of Numba's kinds of threads end the process when two ask for them at once.
_asking = threading.Lock()


def in_runs(fastmath: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function of a run of numbers one of how many there are: every thread has a run, all even.

    ``function(begin, end, *args)`` must write nowhere where another run does, nor where another argument
    lies. Numbers divided by 0 are infinite; that there is no memory for its own arrays is the only error.
    Numba's cache keeps what is compiled. One such function is at work at a time, without Python's lock.

    Parameters
    ----------
    fastmath
        What the compiler may do with floating-point numbers: names of LLVM's flags.

    Examples
    --------
    All threads double an array by ``double(len(array), array)`` of ::

        @in_runs()
        def double(begin, end, array):
            for k in range(begin, end):
                array[k] *= 2
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        compiled = numba.njit(nogil=True, cache=True, no_cfunc_wrapper=True)(_over_all(function, fastmath))

        def run(count: int, *args: Any) -> None:
            if count > 0:
                with _asking:
                    numba.get_num_threads()  # starts them, and tells LLVM where their functions are
                    compiled(count, *args)

        return run

    return decorate


def _over_all(function: Any, fastmath: Collection[str]) -> Callable[..., None]:
    """The function of a count, to be kept under the file, the name and the line of that of a run.

    In the name are also the whole numbers that it closes over: by them Numba tells two functions of one line,
    and this one closes over nothing.
    """
    closed_over = "".join(f"-{operator.index(cell.cell_contents)}" for cell in function.__closure__ or ())
    code = _all.__code__.replace(
        co_filename=function.__code__.co_filename,
        co_firstlineno=function.__code__.co_firstlineno,
        co_name=function.__name__,
    )
    over_all = FunctionType(code, {"_by_runs": _by_runs(function, fastmath)}, function.__name__)
    over_all.__module__ = function.__module__
    over_all.__qualname__ = f"{function.__qualname__}{closed_over}-{_EDITION}"
    return over_all


def _all(count, *args):  # type: ignore[no-untyped-def]
    _by_runs(count, args)  # here the intrinsic that it gives


def _by_runs(function: Callable[..., None], fastmath: Collection[str]) -> Any:
    """function(begin, end, *args) by all threads, for runs of the numbers below ``count``."""

    @intrinsic
    def by_runs(typingctx, count, args):  # type: ignore[no-untyped-def]
        def build(context, builder, signature, values):  # type: ignore[no-untyped-def]
            called = types.none(types.uintp, types.uintp, *args)
            flags = Flags()
            flags.nrt, flags.noalias, flags.error_model = True, True, "numpy"
            flags.fastmath = FastMathOptions(set(fastmath))
            compiled = context.compile_subroutine(builder, function, called, flags=flags, caching=False)
            own = context.declare_function(builder.module, compiled.fndesc)

            def call(builder, begin, end, packed):  # type: ignore[no-untyped-def]
                items = cgutils.unpack_tuple(builder, packed, len(args))
                given = [begin, end, *items]
                status, _ = context.call_conv.call_function(builder, own, types.none, called.args, given)
                return status.is_error

            number, shared = values
            with builder.if_then(_by_all_threads(builder, number, shared, call), likely=False):
                said = (f"there is no memory for {function.__name__}",)
                context.call_conv.return_user_exc(builder, MemoryError, said)
            return context.get_dummy_value()

        return types.none(types.intp, args), build

    return by_runs


def _by_all_threads(builder: Any, count: Any, shared: Any, call: Callable[..., Any]) -> Any:
    """Code for ``call(builder, begin, end, shared)`` for runs of what is below ``count``: has one failed?"""
    get_threads = ir.FunctionType(_INDEX, [])
    threads = builder.call(cgutils.get_or_insert_function(builder.module, get_threads, "get_num_threads"), [])
    threads = builder.select(builder.icmp_signed("<", threads, count), threads, count)
    failed = cgutils.alloca_once_value(builder, _FLAG(0))
    data = cgutils.make_anonymous_struct(builder, [count, threads, failed, shared])
    # Numba cuts an array into pieces for its threads. Of bytes from address 0 on, one for each thread, a
    # piece's address is the number of its first thread.
    places = [
        cgutils.alloca_once_value(builder, value)
        for value in (ir.Constant(_BYTES, None), threads, _INDEX(1), data)
    ]
    given = [builder.bitcast(place, _BYTES) for place in (_task(builder.module, data.type, call), *places)]
    on_threads = cgutils.get_or_insert_function(builder.module, _ON_THREADS, "numba_parallel_for")
    builder.call(on_threads, [*given, _INDEX(0), _INDEX(1), threads])
    return builder.icmp_unsigned("!=", builder.load(failed), _FLAG(0))


def _task(module: Any, data: Any, call: Callable[..., Any]) -> Any:
    """What a thread does: the run that is its own, or those of several."""
    task = ir.Function(module, _TASK, name=module.get_unique_name("runs"))
    task.linkage = "internal"
    builder = ir.IRBuilder(task.append_basic_block())
    address, pieces, _, given = task.args
    own = builder.load(builder.bitcast(given, data.as_pointer()))
    count, threads, failed, shared = cgutils.unpack_tuple(builder, own, 4)
    first = builder.ptrtoint(builder.load(address), _INDEX)
    last = builder.add(first, builder.load(pieces))
    begin, end = (builder.sdiv(builder.mul(count, thread), threads) for thread in (first, last))
    with builder.if_then(call(builder, begin, end, shared), likely=False):
        builder.store(_FLAG(1), failed)
    builder.ret_void()
    return task
