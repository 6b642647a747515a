"""Which network draws from a model here."""

from sapience.inference import graph_network, native_network
from sapience.inference.graph_network import GraphNetwork
from sapience.inference.native_network import NativeNetwork
from sapience.inference.network import LatentNetwork, Network
from sapience.model.transformer import Transformer
from sapience.recipe.errors import UserError


def network_of(
    model: Transformer,
    pages: int,
    positions: int,
    drafts: bool = False,
    eight_bits: bool = False,
    recorded: bool = True,
) -> Network:
    """The fastest there is for the model. Without `recorded` nothing is compiled for a GPU, which takes up to a minute."""
    if native_network.fits(model):
        return NativeNetwork(model, pages, positions, drafts, eight_bits)
    if eight_bits:
        raise UserError(
            "weights in 8 bits are for float32 models on a CPU, by a C++ compiler: leave the option out, or see what "
            "`sapience doctor` says of c++"
        )
    network = GraphNetwork if recorded and graph_network.fits(model) else LatentNetwork
    return network(model, pages, positions, drafts)
