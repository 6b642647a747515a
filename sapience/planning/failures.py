"""What a machine's own failures mean for the person who started a command: memory that is full, a GPU that failed.

Kinds of errors are told by their names and words, so that nothing here loads torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sapience.recipe import UserError

REMEDIES = {
    "pretrain": "lower pretrain.batch.micro_rows or name parts of layers in pretrain.recompute",
    "extend": "lower batch.micro_rows in extend.phases or name parts of layers in extend.recompute",
    "specialise": "lower specialise.supervised.batch.micro_rows or, if GRPO was under way, specialise.policy.micro_tokens",
    "finetune": "lower finetune.supervised.batch.micro_rows",
    "reward": "lower reward.micro_pairs",
    "reinforce": "lower reinforce.policy.micro_tokens",
    "evaluate": "lower evaluate.batch_tokens",
}
"""By stage: what makes a training or a measurement need less memory."""
ELSEWHERE = "take a smaller model, fewer or shorter texts at once, or a machine with more memory"


@contextmanager
def explained(stage: str | None = None) -> Iterator[None]:
    """Around what may fail: UserError where memory is full; how to go on, with the error, where a GPU failed in a stage."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = _full(error)
        if full is not None:
            where = "" if stage is None else f" in stage {stage}"
            remedy = REMEDIES.get(stage or "", ELSEWHERE)
            raise UserError(
                f"{full[0]} is full{where} ({full[1]}): {remedy}; other programs may hold some of it too"
            ) from error
        if stage is not None and (type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)):
            error.add_note(
                f"sapience: the GPU failed in stage {stage}. What its last checkpoint holds is kept: the same command goes on "
                "from there. If it fails again, let no other program use the GPU, and report it."
            )
        raise


def _full(error: BaseException) -> tuple[str, str] | None:
    """Which memory is full, and the error's own words for it."""
    words = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory", _until(words.removeprefix("CUDA out of memory. "), " is free")
    if "DefaultCPUAllocator: can't allocate memory" in words:
        return "this machine's memory", _until(words.partition("allocate memory: ")[2], " bytes")
    if isinstance(error, MemoryError):
        return "this machine's memory", words or "nothing more could be had"
    return None


def _until(words: str, end: str) -> str:
    before, found, _ = words.partition(end)
    return before + found
