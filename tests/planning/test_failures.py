"""Memory that is full and a GPU that failed: told with a remedy that exists, and nothing else is touched."""

import re

import pytest
import torch

from sapience.planning.failures import REMEDIES, explained
from sapience.recipe import Recipe, UserError
from sapience.stages import stage_names

OUT_OF_GPU_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.25 GiB is free. "
    "Including non-PyTorch memory, this process has 77.00 GiB memory in use."
)


def test_a_full_gpu_names_the_stages_own_remedy() -> None:
    with pytest.raises(UserError) as told, explained("reinforce"):
        raise torch.OutOfMemoryError(OUT_OF_GPU_MEMORY)
    assert str(told.value).startswith("the GPU's memory is full in stage reinforce (Tried to allocate 20.00 GiB. GPU 0")
    assert "1.25 GiB is free): lower reinforce.policy.micro_tokens;" in str(told.value)


def test_without_a_stage_the_remedy_is_a_general_one() -> None:
    with pytest.raises(UserError, match=r"memory is full \(Tried.*: take a smaller model"), explained():
        raise torch.OutOfMemoryError(OUT_OF_GPU_MEMORY)


def test_a_full_machine_is_told_as_pytorch_and_python_say_it() -> None:
    with pytest.raises(UserError) as told, explained("pretrain"):
        torch.empty(1 << 50)
    assert str(told.value).startswith(
        "this machine's memory is full in stage pretrain (you tried to allocate 4503599627370496 "
    )
    with pytest.raises(UserError) as told, explained("corpus"):
        raise MemoryError
    assert "memory is full in stage corpus (nothing more could be had): take a smaller" in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    ],
)
def test_a_gpu_that_failed_is_no_mistake_but_says_how_to_go_on(error: RuntimeError) -> None:
    with pytest.raises(RuntimeError) as told, explained("pretrain"):
        raise error
    assert told.value is error
    assert any("failed in stage pretrain" in note and "the same command goes on" in note for note in error.__notes__)


def test_other_errors_are_left_alone() -> None:
    for error in (RuntimeError("shapes do not fit"), ValueError("CUDA error: no RuntimeError")):
        with pytest.raises(type(error)) as told, explained("pretrain"):
            raise error
        assert told.value is error and not hasattr(error, "__notes__")


def test_every_setting_that_a_remedy_names_exists() -> None:
    recipe = Recipe()
    for stage, remedy in REMEDIES.items():
        assert stage in stage_names()
        for path in re.findall(rf"\b{stage}\.[a-z_.]+[a-z]", remedy):
            found: object = recipe
            for name in path.split("."):
                found = getattr(found, name)
    assert recipe.extend.phases[0].batch.micro_rows >= 1
