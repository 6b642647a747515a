"""One thread of arithmetic for every test, set before torch is loaded: sums repeat, and nobody crowds the machine.

Fixtures that several files share lie in the helper modules named below.

Under CI the property tests draw the same examples every time, so that a run says something about the change it tests;
anywhere else they go on searching.
"""

import os
import signal

from hypothesis import settings

# A shell's background job ignores Ctrl-C, and so would all that these tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

pytest_plugins = ("begun_ahead", "general_server", "review_queues")
