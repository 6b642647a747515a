"""Commands that take a model: to continue a text, to talk, to hand it to others."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sapience.commands.arguments import AsJson, Draft, EightBits, ModelName, NewFolder, ShardSize, Stored
from sapience.recipe import UserError
from sapience.screen import Screen

app = typer.Typer()


@app.command()
def generate(
    model: ModelName,
    text: Annotated[str, typer.Argument(help="The beginning that the model continues.")],
    tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.", min=0.0)] = 0.7,
    seed: Annotated[int, typer.Option(help="Same seed, same text.", min=0)] = 0,
    draft: Draft = None,
    int8: EightBits = False,
    as_json: AsJson = False,
) -> None:
    """Continue a text with a model."""
    from sapience.run import resolve_model
    from sapience.serving.run_models import drafted_ahead

    folder = resolve_model(model)
    ahead = drafted_ahead(folder, draft)
    from sapience.corpus.tokenizer import TextStream, Tokenizer
    from sapience.inference.generate import generate as draw
    from sapience.model.huggingface import load_model
    from sapience.serving.answering import Settings
    from sapience.serving.printable import json_line, printable
    from sapience.training.device import choose_device

    settings = Settings(temperature, tokens, seed)
    tokenizer, network = Tokenizer.load(folder), load_model(folder, choose_device("auto"))
    stream = TextStream(tokenizer, continued=True)
    unsaid = printable(text)  # with the first token: where nothing can be drawn, nothing is printed

    def show(_: int, token: int) -> None:
        nonlocal unsaid
        if not as_json:
            piece = "" if token == tokenizer.eos_id else printable(stream.push(token))
            print(unsaid + piece, end="", flush=True)
            unsaid = ""

    prompt = [tokenizer.bos_id, *tokenizer.encode(text)]
    stop = {tokenizer.eos_id}
    [drawn] = draw(
        network, [prompt], settings.tokens, temperature=settings.temperature, stop_ids=stop, seed=settings.seed,
        depth=ahead, eight_bits=int8, on_token=show,
    )  # fmt: skip
    if as_json:
        written = tokenizer.decode([token for token in drawn.tokens if token not in stop], continued=True)
        print(json_line({"prompt": text, "text": written, "finished": drawn.finished}))
    else:
        print()


@app.command(
    epilog="""Examples:

    sapience chat demo

    sapience chat demo@pretrain

    sapience chat demo@specialise/math --system "Think step by step, check, then answer."

    sapience chat demo --message "Which number is the largest: 3, 9?" --temperature 0 --json

    sapience chat demo < questions.txt

    /help lists what can be typed beside questions: /stage NAME goes on with another model of the run, which answers the
    last question again. From a pipe every line is a question, and nothing but answers is printed."""
)
def chat(
    model: ModelName,
    system: Annotated[str, typer.Option(help="A message that stands before the conversation.")] = "",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.", min=0.0)] = 0.7,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.", min=0)] = 0,
    top_k: Annotated[int, typer.Option(help="Only so many of the likeliest tokens; 0: all.", min=0)] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens that together reach this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Only tokens at least so likely beside the likeliest one.")] = 0.0,
    draft: Draft = None,
    int8: EightBits = False,
    message: Annotated[str | None, typer.Option(help="Ask this, print the answer and end.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model of a run, and hear how its stages differ."""
    from sapience.run import resolve_model
    from sapience.serving.run_models import drafted_ahead

    if as_json and message is None:
        raise UserError("--json prints one answer: say with --message what is to be asked")
    folder = resolve_model(model)
    ahead = drafted_ahead(folder, draft)
    from sapience.serving.answering import Settings
    from sapience.serving.terminal import ask_once, loader, talk

    settings = Settings(temperature, tokens, seed, top_k, top_p, min_p)
    load = loader(ahead, int8)
    if message is None:
        talk(folder, load, system, settings, Screen().say)
    else:
        ask_once(folder, load, system, message, settings, as_json, Screen().say)


@app.command(
    epilog="""Examples:

    sapience export demo model

    sapience export demo@pretrain base --dtype bfloat16

    sapience export ~/model fp8 --fp8 --shard-gb 4

    Loads in transformers, vLLM and SGLang. A run's model gets a model card with its data and their licences. Needs the
    memory of the largest tensor; interrupted, the same command goes on."""
)
def export(
    model: ModelName,
    folder: NewFolder,
    form: Annotated[Literal["huggingface"], typer.Option("--format", help="Layout of the files.")] = "huggingface",
    fp8: Annotated[
        bool, typer.Option("--fp8", help="Projections in DeepSeek-V3's FP8 blocks, the rest bfloat16.")
    ] = False,
    dtype: Annotated[Stored, typer.Option(help="Type of the weights; `stored` changes none.")] = Stored.STORED,
    shard_gb: ShardSize = 5.0,
) -> None:
    """Write a model as a folder that others load: safetensors with an index, tokenizer, model card."""
    from sapience.run import resolve_model

    if fp8 and dtype is not Stored.STORED:
        raise UserError("--fp8 decides the types itself: leave --dtype out")
    source = resolve_model(model)
    from sapience.evaluation.model_card import model_card
    from sapience.model.conversion import Conversion, convert_folder

    wanted = Conversion(dtype.torch(), fp8, int(shard_gb * 1e9))
    screen = Screen()
    screen.converted(folder, convert_folder(source, folder, wanted, screen.progress, model_card(source, folder.name)))


@app.command(
    "import",
    epilog="""Examples:

    sapience import ~/DeepSeek-V3 v3

    sapience import ~/Moonlight-16B-A3B moonlight --dtype float32

    Takes the family of DeepSeek-V3: V3, R1, V3.1, V2, V2-Lite, Moonlight, FP8 blocks or not, prediction modules included.
    Training takes the folder from there: sapience run recipes/assistant-own-model.yaml finetune.model=v3""",
)
def import_(
    source: Annotated[Path, typer.Argument(help="A Hugging Face folder.", show_default=False)],
    folder: NewFolder,
    dtype: Annotated[
        Stored, typer.Option(help="Type of the weights; `stored` keeps it, and makes bfloat16 of FP8 blocks.")
    ] = Stored.STORED,
    shard_gb: ShardSize = 5.0,
) -> None:
    """Check a checkpoint tensor by tensor and write it as training takes it, FP8 blocks multiplied out."""
    from sapience.model.conversion import imported

    screen = Screen()
    screen.converted(folder, imported(source, folder, dtype.torch(), int(shard_gb * 1e9), screen.progress))
