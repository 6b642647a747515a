"""`sapience bench lanes`: what a rank's arithmetic and its network do in each dimension, timed on paper."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sapience.commands.arguments import AsJson
from sapience.recipe import UserError

if TYPE_CHECKING:
    from sapience.parallel.lanes import Lanes

lanes = typer.Typer(
    help="Time on paper what ranks compute and what they send meanwhile, dimension by dimension.",
    no_args_is_help=True,
    epilog="""Examples:

    sapience bench lanes zero1 --ranks 8 --microbatches 32

    sapience bench lanes expert --to-experts 0.5 --svg expert.svg

    Every rank has two lanes, arithmetic and network, each of which does one thing at a time; a collective begins when all its
    ranks are ready. Times are in any unit.""",
)

Ranks = Annotated[int, typer.Option(help="Ranks that share the work.", min=2, max=1024)]
Microbatches = Annotated[int, typer.Option(help="Micro-batches of a step, all ranks' together.", min=1, max=65536)]
Layers = Annotated[int, typer.Option(help="Layers of a chunk.", min=1, max=1024)]
Forward = Annotated[float, typer.Option(help="Time of a micro-batch's forward pass.", min=0)]
Backward = Annotated[float, typer.Option(help="Time of its backward pass.", min=0)]
Travel = Annotated[
    float, typer.Option(help="Time in which all weights travel one way; an all-reduce takes two.", min=0)
]
Norm = Annotated[float, typer.Option(help="Time to add up the sums and the gradient's norm.", min=0)]
Optimizer = Annotated[float, typer.Option(help="Time in which one rank moves all weights.", min=0)]
Attention = Annotated[float, typer.Option(help="Time of attention and gate, forward.", min=0)]
Shared = Annotated[float, typer.Option(help="Time of the shared experts, forward.", min=0)]
Experts = Annotated[float, typer.Option(help="Time of the routed experts, forward.", min=0)]
Times = Annotated[float, typer.Option(help="How many times as long as forward a part takes backward.", min=0)]
ToExperts = Annotated[
    float, typer.Option(help="Time of the dispatch, and of the combine's gradient: what FP8 halves.", min=0)
]
FromExperts = Annotated[float, typer.Option(help="Time of the combine, and of the dispatch's gradient.", min=0)]
Svg = Annotated[Path | None, typer.Option(help="Draw the lanes into this file.")]


@lanes.command()
def data(
    ranks: Ranks = 4,
    microbatches: Microbatches = 8,
    forward: Forward = 1.0,
    backward: Backward = 2.0,
    travel: Travel = 3.0,
    norm: Norm = 0.2,
    optimizer: Optimizer = 2.0,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """Data parallel without parallel.shard_optimizer: gradients are added up, every rank moves all weights."""
    from sapience.parallel.dimensions import data_parallel

    _tell(
        "data", lambda: [data_parallel(ranks, microbatches, forward, backward, travel, norm, optimizer)], svg, as_json
    )


@lanes.command()
def zero1(
    ranks: Ranks = 4,
    microbatches: Microbatches = 8,
    forward: Forward = 1.0,
    backward: Backward = 2.0,
    travel: Travel = 3.0,
    norm: Norm = 0.2,
    optimizer: Optimizer = 2.0,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """ZeRO-1 (parallel.shard_optimizer): each weight's owner gets its gradient, moves it and gives it to the others."""
    from sapience.parallel.dimensions import zero_1

    _tell("zero1", lambda: [zero_1(ranks, microbatches, forward, backward, travel, norm, optimizer)], svg, as_json)


@lanes.command()
def fsdp(
    ranks: Ranks = 2,
    blocks: Annotated[int, typer.Option(help="Blocks of the model.", min=1, max=1024)] = 4,
    forward: Annotated[float, typer.Option(help="Time of a block's forward pass.", min=0)] = 1.0,
    backward: Annotated[float, typer.Option(help="Time of its backward pass.", min=0)] = 2.0,
    gather: Annotated[float, typer.Option(help="Time in which a block's weights are gathered.", min=0)] = 0.8,
    scatter: Annotated[float, typer.Option(help="Time in which its gradients are scattered.", min=0)] = 0.8,
    norm: Norm = 0.2,
    optimizer: Optimizer = 2.0,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """parallel.shard_weights: each rank keeps a share of every block, which is gathered while the block before computes."""
    from sapience.parallel.dimensions import shard_weights

    def made() -> "list[Lanes]":
        return [shard_weights(ranks, blocks, forward, backward, gather, scatter, norm, optimizer)]

    _tell("fsdp", made, svg, as_json)


@lanes.command()
def expert(
    ranks: Ranks = 2,
    attention: Attention = 1.0,
    shared: Shared = 0.5,
    experts: Experts = 1.0,
    backward: Times = 2.0,
    to_experts: ToExperts = 0.75,
    from_experts: FromExperts = 1.5,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """parallel.expert: a layer, forward and backward; shared experts work while tokens travel."""
    from sapience.parallel.dimensions import expert_parallel

    def made() -> "list[Lanes]":
        return [expert_parallel(ranks, attention, shared, experts, backward, to_experts, from_experts)]

    _tell("expert", made, svg, as_json)


@lanes.command()
def pair(
    layers: Layers = 2,
    attention: Attention = 1.0,
    shared: Shared = 0.5,
    experts: Experts = 1.0,
    backward: Times = 2.0,
    to_experts: ToExperts = 0.75,
    from_experts: FromExperts = 1.5,
    send: Annotated[float, typer.Option(help="Time of a message to the pipeline's next rank.", min=0)] = 0.5,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """A pair of DualPipe: a forward and a backward chunk that take turns, and the same one after the other."""
    from sapience.parallel.dimensions import overlapped_pair

    def made() -> "list[Lanes]":
        ways = to_experts, from_experts, send
        return list(overlapped_pair(layers, attention, shared, experts, backward, *ways))

    _tell("pair", made, svg, as_json)


@lanes.command()
def context(
    ranks: Ranks = 4,
    layers: Layers = 1,
    latents: Annotated[float, typer.Option(help="Time to make the latents of a rank's places.", min=0)] = 1.0,
    gather: Annotated[float, typer.Option(help="Time in which latents travel, or their gradients.", min=0)] = 0.75,
    unfold: Annotated[float, typer.Option(help="Time to unfold all places' keys and values.", min=0)] = 0.75,
    attention: Annotated[
        float, typer.Option(help="Time of the whole row's attention, all ranks together.", min=0)
    ] = 8.0,
    feed: Annotated[float, typer.Option(help="Time of the rest of a layer for a rank's places.", min=0)] = 1.0,
    backward: Times = 2.0,
    svg: Svg = None,
    as_json: AsJson = False,
) -> None:
    """parallel.context: ranks share a row's places by zig-zag, and what contiguous places would cost."""
    from sapience.parallel.dimensions import context_parallel

    def made() -> "list[Lanes]":
        return list(context_parallel(ranks, layers, latents, gather, unfold, attention, feed, backward))

    _tell("context", made, svg, as_json)


def _tell(name: str, made: "Callable[[], list[Lanes]]", svg: Path | None, as_json: bool) -> None:
    """Times the lanes, draws them, prints their figures. What is there for comparison comes second."""
    from sapience.parallel import lanes_picture
    from sapience.parallel.lanes import LANES, LaneTimeline, timed
    from sapience.parallel.schedule import Impossible

    try:
        timelines = [timed(each) for each in made()]
    except Impossible as error:
        raise UserError(str(error)) from None
    longest = max(timeline.end for timeline in timelines)
    if not longest > 0:
        raise UserError("nothing takes any time: give one of the options a time above zero")
    if svg is not None:
        svg.write_text(lanes_picture.svg(timelines), encoding="utf-8")

    def figures(timeline: LaneTimeline) -> dict[str, Any]:
        ranks = range(timeline.lanes.ranks)
        busy = {f"{lane}_busy": [timeline.busy(rank, lane) for rank in ranks] for lane in LANES}
        shares = {"idle_share": timeline.idle_share, "hidden_share": timeline.hidden_share}
        return {"what": timeline.lanes.name, "time": timeline.end, **shares, **busy}

    first, *rest = timelines
    if as_json:
        from sapience.serving.printable import json_line

        compared = figures(rest[0]) | {"saved": rest[0].end - first.end} if rest else None
        record = {"lanes": name, "ranks": first.lanes.ranks, **figures(first), "compared": compared}
        print(json_line(record))
        return
    for timeline in timelines:
        print(timeline.lanes.name)
        print("\n".join(lanes_picture.lines(timeline, longest)))
        print(f"    {lanes_picture.said(timeline)}")
    meanings = [f"{lanes_picture.LETTERS[work]} {meaning}" for work, meaning in lanes_picture.meanings(timelines)]
    print(f"    {', '.join(meanings)}, . idle")
    if rest:
        saved = rest[0].end - first.end
        print(f"    saved: {saved:.4g} of {rest[0].end:.4g} ({saved / rest[0].end:.0%})")
