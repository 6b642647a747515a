"""The command that serves models: OpenAI's API and a chat page."""

from typing import Annotated

import typer

from sapience.commands.arguments import Draft, EightBits, ModelName

app = typer.Typer()


@app.command(
    epilog="""Examples:

    sapience serve demo

    sapience serve demo@finetune --port 0 --draft 3

    SAPIENCE_API_KEY=… sapience serve demo --host 0.0.0.0

    A run offers all its models, as demo@pretrain and so on; the named one is loaded at the start, the others when somebody
    asks for them. Any client of OpenAI's API talks to it: base_url http://127.0.0.1:8000/v1, model demo@reinforce."""
)
def serve(
    model: ModelName,
    host: Annotated[str, typer.Option(help="Address to listen at; beyond this machine a key is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is any free one.", min=0, max=65535)] = 8000,
    max_running: Annotated[int, typer.Option(help="Answers drawn at once, by each model.", min=1)] = 64,
    max_positions: Annotated[
        int | None, typer.Option(help="Tokens whose latents each model keeps.", min=1, show_default="2 GiB of them")
    ] = None,
    draft: Draft = None,
    int8: EightBits = False,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait to be begun; more get 429.", min=1)] = 256,
    max_requests: Annotated[int, typer.Option(help="Requests under way; more get 429.", min=1)] = 1024,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Longest prompt.", min=1, show_default="the model's context")
    ] = None,
    max_answer_tokens: Annotated[
        int, typer.Option(help="Longest answer, and that of a chat that says nothing of it.", min=1)
    ] = 4096,
    max_choices: Annotated[int, typer.Option(help="Answers to one request.", min=1)] = 16,
    max_body_mb: Annotated[float, typer.Option(help="Largest request in MB.", min=0.001, max=1000)] = 2.0,
    max_seconds: Annotated[float, typer.Option(help="Longest time of one request.", min=0.1)] = 600.0,
    arrival_seconds: Annotated[
        float, typer.Option(help="Longest time for a request's headers to arrive, and for its body.", min=0.1)
    ] = 30.0,
    slow_seconds: Annotated[
        float, typer.Option(help="A stream of which nothing is read for so long is given up.", min=0.1)
    ] = 30.0,
    grace: Annotated[float, typer.Option(help="Seconds for what was accepted, when asked to end.", min=0.0)] = 30.0,
) -> None:
    """Serve a run's models: OpenAI's API, and a page to talk to them."""
    from sapience.run import resolve_model
    from sapience.serving.run_models import drafted_ahead

    folder = resolve_model(model)
    ahead = drafted_ahead(folder, draft)
    from sapience.serving.limits import Limits
    from sapience.serving.server import serve as run_server

    limits = Limits(
        body_bytes=int(max_body_mb * 1e6), arrival_seconds=arrival_seconds, prompt_tokens=max_prompt_tokens,
        answer_tokens=max_answer_tokens, choices=max_choices, waiting=max_waiting, at_once=max_requests, seconds=max_seconds,
        slow_seconds=slow_seconds, grace=grace,
    )  # fmt: skip
    run_server(folder, host, port, limits, max_running, max_positions, ahead, int8)
