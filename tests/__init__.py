"""Tests, several processes of them at a time on few cores: none lets threads spin while they wait.

Both are read when a library is loaded, and so are set before any is; processes that tests start inherit them.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
