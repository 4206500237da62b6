"""Watching a training from outside: a page on the Dask dashboard, Prometheus metrics, a log.

Training tells records: plain values, see :func:`hyperlearn_dask.training.events.record`. The log holds
them one a line; a scheduler is sent the same ones and draws its page and metrics from them.
"""
