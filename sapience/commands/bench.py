"""Commands that measure speed. Each prints one JSON line for a figure with --json."""

import math
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from sapience.commands.arguments import AsJson
from sapience.commands.lanes import lanes
from sapience.recipe import UserError
from sapience.recipe.compute import RecomputedPart

app = typer.Typer()
bench = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")
bench.add_typer(lanes, name="lanes")


@bench.command(
    epilog="""Examples:

    sapience bench train

    sapience bench train --config small --dtype bf16 --compile

    sapience bench train --config recipes/demo.yaml --batch 16

    --serve prints READY when it is warm, runs one round for each line on standard input, answers {"round_ms": X}, and prints
    its figures at the end of input or on the line quit: several systems can be timed in turn that way."""
)
def train(
    config: Annotated[
        str, typer.Option(help="nano, small, v3slice, a recipe (.yaml) or a Hugging Face config (.json).")
    ] = "nano",
    dtype: Annotated[Literal["fp32", "bf16", "fp8"], typer.Option(help="What products are computed in.")] = "fp32",
    narrow: Annotated[
        bool, typer.Option("--narrow", help="With bf16: weights, gradients and moments in bfloat16 too.")
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU where there is one.")
    ] = "auto",
    batch: Annotated[int | None, typer.Option(help="Rows of a step.", min=1)] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a row.", min=2)] = None,
    micro: Annotated[int | None, typer.Option(help="Rows at once; gradients add up.", min=1)] = None,
    steps: Annotated[int, typer.Option(help="Steps of a round.", min=1)] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds; the median counts.", min=1)] = 5,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile each layer (torch.compile).")] = False,
    balanced: Annotated[bool, typer.Option(help="Give every expert equally many tokens.")] = False,
    recompute: Annotated[
        list[str] | None,
        typer.Option(help="norms or attention_up: what the backward pass computes again; may be repeated."),
    ] = None,
    served: Annotated[bool, typer.Option("--serve", help="Run a round for each line of standard input.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time training steps: forward, loss, backward, clip and AdamW."""
    from sapience.planning.allocator import keep_memory
    from sapience.planning.shapes import find_shape

    keep_memory()
    shape = find_shape(config)
    rows, columns = batch or shape.rows, length or shape.length
    if rows % (micro or rows):
        raise UserError(f"{rows} rows cannot be cut into parts of {micro}: give a --micro that divides --batch")
    if narrow and dtype != "bf16":
        raise UserError("--narrow keeps weights in bfloat16: give --dtype bf16 with it")
    known = get_args(RecomputedPart)
    if unknown := sorted(set(recompute or ()) - set(known)):
        raise UserError(f"--recompute {unknown[0]}: choose from {', '.join(known)}")
    from sapience.planning.parameters import training_operations
    from sapience.serving.printable import json_line
    from sapience.training.bench import Asked, TrainingBench, serve, timed

    operations = training_operations(shape.model, columns)
    asked = Asked(
        shape.name,
        shape.model,
        operations,
        dtype,
        device,
        rows,
        columns,
        micro or rows,
        steps,
        narrow,
        compiled,
        balanced,
        tuple(part for part in known if part in (recompute or ())),
    )
    made = TrainingBench(asked)
    if served:
        serve(made, sys.stdin, lambda line: print(line, flush=True))
        return
    record = timed(
        made, rounds, lambda ms: None if as_json else print(f"{made.described}: {ms:.1f} ms a step", flush=True)
    )
    if as_json:
        print(json_line(record))
        return
    memory = f", {record['peak_gpu_mb'] / 1024:.1f} GiB at most" if record["peak_gpu_mb"] else ""
    print(
        f"{record['tokens_per_s']:,.0f} tokens a second, {record['mfu']:.0%} of the "
        f"{record['ceiling_gflops'] / 1000:.2f} TFLOP/s that a matrix product reaches here{memory}"
    )


@bench.command(
    epilog="""Examples:

    sapience bench generate

    sapience bench generate --config small --dtype bf16 --batch 64

    sapience bench generate --model demo@pretrain --draft 1 --int8

    --serve: see sapience bench train --help."""
)
def generate(
    config: Annotated[
        str, typer.Option(help="nano, small, v3slice, a recipe (.yaml) or a Hugging Face config (.json).")
    ] = "nano",
    dtype: Annotated[Literal["fp32", "bf16", "fp8"], typer.Option(help="What products are computed in.")] = "fp32",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU where there is one.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Prompts that are answered together.", min=1)] = 1,
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt.", min=1)] = 64,
    new: Annotated[int, typer.Option(help="Tokens of an answer.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)] = 0.0,
    draft: Annotated[int, typer.Option(help="Tokens that the prediction module drafts ahead.", min=0)] = 0,
    int8: Annotated[bool, typer.Option("--int8", help="Weights on a CPU in 8 bits.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="A run's model or a folder, in place of random weights; it goes on with text of its own."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; the median counts.", min=1)] = 5,
    served: Annotated[bool, typer.Option("--serve", help="Run a round for each line of standard input.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time drawing: prompts read, then a token after the other for each."""
    from sapience.planning.shapes import find_shape
    from sapience.run import resolve_model

    folder = None if model is None else resolve_model(model)
    shape = find_shape(config if folder is None else str(folder / "config.json"))
    from sapience.inference.bench import AskedDrawing, DrawingBench
    from sapience.serving.printable import json_line
    from sapience.training.bench import serve, timed

    made = DrawingBench(
        AskedDrawing(
            model or shape.name, shape.model, dtype, device, batch, prompt, new, temperature, draft, int8, folder
        )
    )
    if served:
        serve(made, sys.stdin, lambda line: print(line, flush=True))
        return
    record = timed(made, rounds, lambda ms: None if as_json else print(f"{made.described}: {ms:.1f} ms", flush=True))
    if as_json:
        print(json_line(record))
        return
    share = record["bandwidth_share"]
    reading = "" if share is None else f", {share:.0%} of the speed at which memory is copied here"
    print(
        f"{record['tokens_per_s']:,.0f} tokens a second ({record['ms_per_step']:.2f} ms a step, "
        f"{record['prompt_ms']:.1f} ms for the prompts) by {record['decoder']}{reading}"
    )


@bench.command(
    epilog="""Examples:

    sapience bench ops

    sapience bench ops --config v3slice --dtype fp8"""
)
def ops(
    config: Annotated[
        str, typer.Option(help="nano, small, v3slice, a recipe (.yaml) or a Hugging Face config (.json).")
    ] = "nano",
    dtype: Annotated[Literal["fp32", "bf16", "fp8"], typer.Option(help="What products are computed in.")] = "fp32",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU where there is one.")
    ] = "auto",
    batch: Annotated[int | None, typer.Option(help="Rows of a step.", min=1)] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a row.", min=2)] = None,
    as_json: AsJson = False,
) -> None:
    """Time the operations that a training step consists of, one by one."""
    from sapience.planning.allocator import keep_memory
    from sapience.planning.shapes import find_shape

    keep_memory()
    shape = find_shape(config)
    rows, columns = batch or shape.rows, length or shape.length
    from sapience.serving.printable import json_line
    from sapience.training.bench_ops import operation_ceiling, operations_of, timed_operation
    from sapience.training.device import choose_device

    chosen = choose_device(device)
    ceiling = operation_ceiling(dtype, chosen)
    described = f"{shape.name} {rows} x {columns} {dtype} {chosen.type}"
    if not as_json:
        print(f"{described}; a large product reaches {ceiling / 1000:.2f} TFLOP/s here")
    for operation in operations_of(shape.model, rows * columns, columns, dtype, device):
        record = timed_operation(operation, ceiling, chosen) | {"config": described}
        if as_json:
            print(json_line(record), flush=True)
        elif record["gflops"]:
            speed = f"{record['gflops'] / 1000:8.3f} TFLOP/s  {record['of_ceiling']:6.0%}"
            print(f"{record['ms']:10.3f} ms  {speed}  {operation.name}", flush=True)
        else:
            print(
                f"{record['ms']:10.3f} ms  {record['gbytes_per_s']:8.1f} GB/s            {operation.name}", flush=True
            )


@bench.command(
    epilog="""Examples:

    sapience bench schedule dualpipe --ranks 8 --microbatches 20

    sapience bench schedule zb1p --ranks 4 --microbatches 8 --backward 2.5 --svg zb1p.svg"""
)
def schedule(
    name: Annotated[
        Literal["1f1b", "interleaved", "zb1p", "dualpipe", "dualpipev"], typer.Argument(help="Which schedule.")
    ] = "dualpipe",
    ranks: Annotated[int, typer.Option(help="Ranks of the pipeline.", min=1)] = 4,
    microbatches: Annotated[int, typer.Option(help="Micro-batches of a step.", min=1)] = 8,
    forward: Annotated[float, typer.Option(help="Time of a forward chunk.", min=0)] = 1.0,
    backward: Annotated[float, typer.Option(help="Time of a backward chunk, both parts.", min=0)] = 2.0,
    weight: Annotated[float, typer.Option(help="Of that, the part for the weights.", min=0)] = 1.0,
    pair: Annotated[
        float | None,
        typer.Option(
            help="Time of a forward and a backward chunk that overlap.", min=0, show_default="forward + backward"
        ),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the timeline into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time a pipeline schedule on paper: its timeline, how long ranks are idle, how many activations they keep."""
    from sapience.parallel import schedule_picture
    from sapience.parallel.schedule import Impossible, Times, check, kept_at_most, timed
    from sapience.parallel.schedules import SCHEDULES, published_bubble

    if weight > backward:
        raise UserError(f"the part for the weights ({weight:g}) is a part of the backward chunk ({backward:g})")
    times = Times(forward, backward, weight, forward + backward if pair is None else pair)
    for given in (times.forward, times.backward, times.weight, times.pair):
        if not math.isfinite(given):
            raise UserError(f"a chunk takes {given:g}: a time is a number, and not below zero")
    try:
        made = SCHEDULES[name](ranks, microbatches)
    except Impossible as error:
        raise UserError(str(error)) from None
    check(made)
    timeline = timed(made, times)
    if not timeline.end > 0:
        raise UserError("nothing takes any time: give --forward or --backward a time above zero")
    bubbles = [timeline.bubble(rank) for rank in range(ranks)]
    if svg is not None:
        svg.write_text(schedule_picture.svg(made, timeline), encoding="utf-8")
    published, kept = published_bubble(name, ranks, times), kept_at_most(made)
    record = {
        "schedule": name, "ranks": ranks, "stages": made.stages, "microbatches": microbatches,
        "time": timeline.end, "bubbles": bubbles, "published_bubble": published,
        "kept_at_most": kept, "copies": len(made.copies),
    }  # fmt: skip
    if as_json:
        from sapience.serving.printable import json_line

        print(json_line(record))
        return
    print("\n".join(schedule_picture.lines(timeline)))
    print("    F forward, B backward, I its part for the input, W that for the weights, & an overlapped pair, . idle")
    print(
        f"{timeline.end:g} in all, of which the idlest rank waits {max(bubbles):g} (published: "
        f"{published:g}); activations of at most {max(kept)} chunks; "
        f"{len(made.copies)} {'copy' if len(made.copies) == 1 else 'copies'} of the parameters"
    )
