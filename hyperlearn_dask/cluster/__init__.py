"""Dask clusters by name: none, workers of this machine, its GPUs, or a scheduler elsewhere.

A worker of ours declares a Dask resource for every modality it owns: training places modalities by them,
as only a resource is still there when a nanny has restarted its worker.
"""

from hyperlearn_dask.cluster.attach import CONNECT_SECONDS
from hyperlearn_dask.cluster.certificates import Tls
from hyperlearn_dask.cluster.local import MOST_WORKERS, Listening, local_cluster, ownership
from hyperlearn_dask.cluster.schedulers import check_scheduler, open_scheduler
from hyperlearn_dask.cluster.serve import serving

__all__ = [
    "CONNECT_SECONDS",
    "MOST_WORKERS",
    "Listening",
    "Tls",
    "check_scheduler",
    "local_cluster",
    "open_scheduler",
    "ownership",
    "serving",
]
