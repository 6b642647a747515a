"""Engines as on a CPU, and as on a GPU."""

from collections.abc import Iterator

import pytest


@pytest.fixture(params=[False, True], ids=["waits", "ahead"], scope="module")
def ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything twice: as on a CPU, and with the next step begun before anybody hears of this one, as on a GPU."""
    from sapience.inference.native_network import NativeNetwork
    from sapience.inference.network import LatentNetwork

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeNetwork, "asynchronous", request.param)
        patch.setattr(LatentNetwork, "asynchronous", request.param)
        yield
