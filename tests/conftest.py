"""What every test runs under: one thread, no hub, and the rule for tests that need a GPU."""

from __future__ import annotations

import os
import signal

import pytest

# Before torch or OpenMP is loaded, and inherited by the processes that tests start. Two threads on a busy
# two-core machine are slower than one, and results do not depend on the number of cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
# A shell starts what runs in the background with Ctrl-C ignored, and so would the commands that tests stop by it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for a hub fails at once


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_cuda") is None:
        return
    import torch

    if torch.cuda.is_available():
        return
    if os.environ.get("VZOOM_REQUIRE_CUDA") == "1":
        pytest.fail("VZOOM_REQUIRE_CUDA=1, but torch sees no CUDA device", pytrace=False)
    pytest.skip("needs a CUDA device")
