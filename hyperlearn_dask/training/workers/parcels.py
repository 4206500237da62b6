"""Results on their way between workers with devices: arrays apart from what they stand in.

Where messages can carry device memory (UCX) arrays travel from GPU to GPU, elsewhere as host arrays; on
arrival each is again where it was, on the device or on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperlearn_dask.backend import array_module, each_array, to_device, to_host

# The arrays, then the value with a Slot in the place of each. A plain list that begins with an array, as
# distributed then sends each array by itself, by the means that its kind has.
Parcel = list[Any]


class Slot:
    """Where an array of a parcel belongs. It has what arrays have, to be found as one."""

    dtype = shape = None

    def __init__(self, number: int, on_device: bool) -> None:
        self.number = number
        self.on_device = on_device


def pack(value: Any, device_memory: bool) -> Parcel:
    """``device_memory``: whether the message can carry it."""
    arrays: list[Any] = []

    def take(array: Any) -> Slot:
        on_device = array_module(array) is not np
        arrays.append(array if device_memory or not on_device else to_host(array))
        return Slot(len(arrays) - 1, on_device)

    form = each_array(value, take)
    return [*arrays, form]


def unpack(parcel: Parcel) -> Any:
    """The value as it was packed."""
    *arrays, form = parcel

    def put(slot: Slot) -> Any:
        array = arrays[slot.number]
        return to_device(array, "cuda") if slot.on_device else array

    return each_array(form, put)
