"""The steps of a training on Dask workers, and going on when some of them are lost."""
