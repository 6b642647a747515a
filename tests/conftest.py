"""One thread of arithmetic for every test, set before torch is loaded: sums repeat, and nobody crowds the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
