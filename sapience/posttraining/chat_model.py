"""Where a stage's model comes from, and how a model that was taught to answer is kept."""

from pathlib import Path

from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import Tokenizer
from sapience.model.huggingface import save_model
from sapience.model.transformer import Transformer
from sapience.run import StageContext, resolve_model


def beginning(context: StageContext, own: str | None, *stages: str) -> Path:
    """The model folder to begin with: the user's own, or that of the first of `stages` that the run has made."""
    if own is not None:
        return resolve_model(own)
    return next(context.inputs[stage] / "model" for stage in stages if stage in context.inputs)


def save_chat_model(model: Transformer, tokenizer: Tokenizer, folder: Path) -> None:
    """A Hugging Face folder whose tokenizer knows how to render conversations; the model comes last, so that a folder
    torn by a kill is no model."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder, ChatFormat(tokenizer).template)
    save_model(model, folder, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)


def is_model(folder: Path) -> bool:
    """True where a whole model lies."""
    return (folder / "config.json").is_file()
