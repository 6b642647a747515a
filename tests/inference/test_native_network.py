"""The C++ forward pass against PyTorch's in float64; the same bits alone, in company, on any threads, in pieces."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from paged_rows import PagedRows
from tiny_models import tiny_config, tiny_model
from torch import Tensor

from sapience.inference import native_network
from sapience.inference.generate import generate
from sapience.inference.native_network import NativeNetwork, rounded_rows
from sapience.inference.network import LatentNetwork
from sapience.inference.pages import PAGE
from sapience.model.transformer import Transformer
from sapience.recipe.model import ModelSection

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CXX") or "c++") is None, reason="needs a C++ compiler")

WIDE: dict[str, Any] = {
    "hidden_size": 80,
    "intermediate_size": 112,
    "moe_intermediate_size": 36,
    "q_lora_rank": 40,
    "kv_lora_rank": 72,
    "qk_nope_head_dim": 20,
    "qk_rope_head_dim": 12,
    "v_head_dim": 17,
    "num_attention_heads": 3,
    "vocab_size": 101,
}
"""Of which no width is a multiple of what a processor adds up at once."""
VARIANTS: dict[str, dict[str, Any]] = {
    "narrow": {},
    "wide": WIDE,
    "plain queries": {"q_lora_rank": None} | {k: v for k, v in WIDE.items() if k != "q_lora_rank"},
    "yarn": {
        "rope_scaling": {"factor": 8, "original_max_position_embeddings": 8, "mscale": 0.707, "mscale_all_dim": 0.707}
    },
    "no dense layer, one group, two shared": {
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 2,
    },
    "no shared experts, no renormalised weights": {"n_shared_experts": 0, "norm_topk_prob": False},
    "softmax gate": {"scoring_func": "softmax", "norm_topk_prob": False},
    "all experts": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 8},
    "tied head": {"tie_word_embeddings": True},
}
IN_EIGHT_BITS = partial(NativeNetwork, eight_bits=True)
LENGTHS = 1, 7, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 40


def prompts(lengths: Sequence[int], vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]


def followed(decoder: PagedRows, rows: int, vocabulary: int, steps: int = 20) -> Iterator[Tensor]:
    """Logits of the prompts and of steps, of which some take rows away."""
    yield decoder.read()
    left = list(range(rows))
    for step in range(steps):
        if step in (3, 9) and len(left) > 1:
            gone = step % len(left)
            decoder.keep([i for i in range(len(left)) if i != gone])
            del left[gone]
        yield decoder.step([(7 * step + 3 * row) % vocabulary for row in left])


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
@pytest.mark.parametrize("spread", [0.25, 2.0])
def test_logits_are_those_of_the_reference(changes: dict[str, Any], spread: float) -> None:
    model = tiny_model(tiny_config(**changes), deviation=spread)
    exact = tiny_model(tiny_config(**changes), deviation=spread, dtype=torch.float64)
    asked = prompts([*LENGTHS, 7], model.config.vocab_size)
    asked.append(asked[3])
    asked.append(asked[4])
    assert native_network.fits(model)
    rows, vocabulary = len(asked), model.config.vocab_size
    ours = followed(PagedRows(NativeNetwork, model, asked, 20), rows, vocabulary)
    theirs = followed(PagedRows(LatentNetwork, exact, asked, 20), rows, vocabulary)
    worst = 0.0
    with torch.no_grad():
        for mine, right in zip(ours, theirs, strict=True):
            worst = max(worst, float((mine - right).abs().max() / right.abs().max()))
    assert worst < 1e-4 if spread > 1 else worst < 1e-5


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_rounded_weights_are_the_only_difference(changes: dict[str, Any]) -> None:
    """In 8 bits: the logits of a model whose matrices are what their rounded rows stand for."""
    model = tiny_model(tiny_config(**changes))
    exact = tiny_model(tiny_config(**changes), dtype=torch.float64)
    head = exact.head.weight
    if exact.config.tie_word_embeddings:
        exact.head.weight = torch.nn.Parameter(head.detach().clone())
    with torch.no_grad():
        for name, weight in exact.named_parameters():
            if weight.ndim > 1 and not any(part in name for part in ("gate.weight", "kv_up", "embedding")):
                rows, factors = rounded_rows(model.get_parameter(name.replace("embedding.weight", "head.weight")))
                assert rows.abs().amax() == 127
                weight.copy_((rows.double() * factors.double().unsqueeze(1)).view_as(weight))
    asked = prompts(LENGTHS, model.config.vocab_size)
    rows, vocabulary = len(asked), model.config.vocab_size
    ours = followed(PagedRows(IN_EIGHT_BITS, model, asked, 20), rows, vocabulary)
    theirs = followed(PagedRows(LatentNetwork, exact, asked, 20), rows, vocabulary)
    for mine, right in zip(ours, theirs, strict=True):
        assert float((mine - right).abs().max() / right.abs().max()) < 1e-5


def first_row(
    model: Transformer, asked: list[list[int]], steps: int, at_once: int = 10**9, kind: Any = NativeNetwork
) -> list[Tensor]:
    """Logits behind the first prompt and what follows it, whatever is read and drawn beside it."""
    decoder = PagedRows(kind, model, asked, steps)
    made = [decoder.read(at_once)[0]]
    return made + [decoder.step([step % 7 + row for row in range(len(asked))])[0] for step in range(steps)]


@pytest.mark.parametrize("kind", [NativeNetwork, IN_EIGHT_BITS], ids=["float32", "8 bits"])
@pytest.mark.parametrize("changes", [VARIANTS["narrow"], VARIANTS["wide"]], ids=["narrow", "wide"])
def test_a_row_has_the_same_bits_in_any_company(
    changes: dict[str, Any], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tiny_config(**changes))
    mine, *others = prompts([21, *LENGTHS, 5, 9, 33], model.config.vocab_size)
    alone = first_row(model, [mine], 20, kind=kind)
    for company in ([mine], others[:1], others[:4], others, [mine, *others, mine]):
        assert all(map(torch.equal, alone, first_row(model, [mine, *company], 20, kind=kind)))
    for threads in (2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert all(map(torch.equal, alone, first_row(model, [mine, *others], 20, kind=kind)))
    for at_once in (1, 4, 30):
        assert all(map(torch.equal, alone, first_row(model, [mine, *others], 20, at_once, kind)))


def test_what_was_drawn_reads_as_it_was_drawn() -> None:
    """Token by token and in one go: the same bits, so that drafts can be checked by reading them."""
    model = tiny_model()
    [prompt] = prompts([9], 61)
    decoder = PagedRows(NativeNetwork, model, [prompt], 12)
    logits = [decoder.read()[0]]
    tokens = []
    for _ in range(12):
        tokens.append(int(logits[-1].argmax()))
        logits.append(decoder.step(tokens[-1:])[0])
    for count in range(13):
        assert torch.equal(PagedRows(NativeNetwork, model, [prompt + tokens[:count]], 1).read()[0], logits[count])


def test_it_is_used_for_float32_on_a_cpu_and_draws_what_the_reference_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    asked = prompts([5, 5, 30], 61) * 2
    assert native_network.fits(model) and not native_network.fits(tiny_model(dtype=torch.float64))
    assert not native_network.fits(tiny_model().compute_in("bf16"))
    assert not native_network.fits(
        tiny_model(ModelSection.model_validate(model.config.model_dump() | {"kv_lora_rank": 4096}))
    )
    drawn = generate(model, asked, 12, temperature=0.9, seed=4)
    monkeypatch.setattr(native_network, "fits", lambda model: False)
    expected = generate(model, asked, 12, temperature=0.9, seed=4)
    assert [one.tokens for one in drawn] == [one.tokens for one in expected]
    for one, other in zip(drawn, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_weights_that_moved_are_seen() -> None:
    model = tiny_model()
    before = PagedRows(NativeNetwork, model, [[3, 4]], 1).read()
    with torch.no_grad():
        model.layers[1].experts.down_EDF.mul_(1.5)  # type: ignore[union-attr, operator]
    after = PagedRows(NativeNetwork, model, [[3, 4]], 1).read()
    assert not torch.equal(before, after)
    assert torch.allclose(after, PagedRows(LatentNetwork, model, [[3, 4]], 1).read(), atol=1e-4)


@pytest.mark.parametrize("token", [-1, 61])
def test_a_token_that_the_model_does_not_have_is_an_error(token: int) -> None:
    with pytest.raises(IndexError, match="none of the model's 61"):
        generate(tiny_model(), [[3, token]], 2)


PROGRAM = """
import sys; sys.path.insert(0, {tests!r})
import torch
from tiny_models import tiny_model
from sapience.inference.generate import generate
from sapience.inference.native_library import native_library
print(generate(tiny_model(), [[3, 4]], 6)[0].tokens, native_library() is not None)
"""


def said(environment: dict[str, str]) -> tuple[str, str]:
    program = PROGRAM.format(tests=str(Path(__file__).parent.parent))
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout, result.stderr


def test_the_library_is_kept_mended_and_done_without(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "CXX"} | {"XDG_CACHE_HOME": str(tmp_path)}
    tokens, warned = said(plain)
    assert tokens.endswith("True\n") and not warned
    [kept] = (tmp_path / "sapience").iterdir()
    made = kept.stat().st_mtime_ns
    assert said(plain) == (tokens, "")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "sapience").iterdir()] == [made]
    size = kept.stat().st_size
    kept.write_bytes(kept.read_bytes()[:1000])
    assert said(plain) == (tokens, "") and kept.stat().st_size == size
    (tmp_path / "file").write_text("")
    assert said(plain | {"XDG_CACHE_HOME": str(tmp_path / "file")}) == (tokens, "")
    without, warned = said(plain | {"CXX": "no-such-compiler"})
    assert without == tokens.replace("True", "False") and warned.count("no C++ compiler") == 1
    broken, warned = said(plain | {"CXX": "false"})
    assert broken == without and warned.count("slower than it could be") == 1
