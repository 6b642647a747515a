"""What several tests of the engine share."""

from collections.abc import Iterator

import pytest

from sapience.inference.native_network import NativeNetwork
from sapience.inference.network import LatentNetwork


@pytest.fixture(params=[False, True], ids=["waits", "ahead"], scope="module")
def ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything twice: as on a CPU, and with the next step begun before anybody hears of this one, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeNetwork, "asynchronous", request.param)
        patch.setattr(LatentNetwork, "asynchronous", request.param)
        yield
