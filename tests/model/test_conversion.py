"""Folder to folder: no bit lost, FP8 blocks there and back, shards, interruptions, memory; and every defect named."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet_progress import quiet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config, tiny_model

from sapience.model import conversion
from sapience.model.conversion import Conversion, convert_folder, imported
from sapience.model.huggingface import load_model, save_model
from sapience.model.release_layout import is_block_matrix, release_entries, release_shapes
from sapience.model.tensor_files import INDEX
from sapience.ops.fp8_blocks import dequantize_blocks, quantize_blocks
from sapience.recipe import UserError
from sapience.recipe.model import ModelSection

V3 = ModelSection(
    vocab_size=129280, hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048, num_hidden_layers=61,
    num_attention_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
    v_head_dim=128, n_routed_experts=256, num_experts_per_tok=8, n_group=8, topk_group=4, first_k_dense_replace=3,
)  # fmt: skip
LARGER = {
    "vocab_size": 300, "hidden_size": 140, "moe_intermediate_size": 130, "intermediate_size": 200, "kv_lora_rank": 136,
}  # fmt: skip
"""More than one block of 128, with ragged edges."""


def convert(source: Path, target: Path, **wanted: Any) -> conversion.Converted:
    return convert_folder(source, target, Conversion(**wanted), quiet)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("model*.safetensors") for name, value in load_file(path).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype
        and torch.equal(one[name].contiguous().view(torch.uint8), other[name].contiguous().view(torch.uint8))
        for name in one
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_model(tiny_config(**LARGER)), tmp_path / "model", 0, 1, 2)
    return tmp_path / "model"


def published_listing() -> Iterator[tuple[str, list[int], str]]:
    """All tensors of the released V3 checkpoint, spelled out layer by layer."""
    bf16, fp8, fp32 = "bfloat16", "float8_e4m3fn", "float32"

    def blocks(name: str, rows: int, columns: int) -> Iterator[tuple[str, list[int], str]]:
        yield name, [rows, columns], fp8
        yield name + "_scale_inv", [(rows + 127) // 128, (columns + 127) // 128], fp32

    def swiglu(prefix: str, inner: int) -> Iterator[tuple[str, list[int], str]]:
        yield from blocks(prefix + "gate_proj.weight", inner, 7168)
        yield from blocks(prefix + "up_proj.weight", inner, 7168)
        yield from blocks(prefix + "down_proj.weight", 7168, inner)

    yield "model.embed_tokens.weight", [129280, 7168], bf16
    yield "model.norm.weight", [7168], bf16
    yield "lm_head.weight", [129280, 7168], bf16
    for layer in range(62):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", [7168], bf16
        yield at + "post_attention_layernorm.weight", [7168], bf16
        yield from blocks(at + "self_attn.q_a_proj.weight", 1536, 7168)
        yield at + "self_attn.q_a_layernorm.weight", [1536], bf16
        yield from blocks(at + "self_attn.q_b_proj.weight", 24576, 1536)
        yield from blocks(at + "self_attn.kv_a_proj_with_mqa.weight", 576, 7168)
        yield at + "self_attn.kv_a_layernorm.weight", [512], bf16
        yield from blocks(at + "self_attn.kv_b_proj.weight", 32768, 512)
        yield from blocks(at + "self_attn.o_proj.weight", 7168, 16384)
        if layer < 3:
            yield from swiglu(at + "mlp.", 18432)
            continue
        yield at + "mlp.gate.weight", [256, 7168], bf16
        yield at + "mlp.gate.e_score_correction_bias", [256], fp32
        for expert in range(256):
            yield from swiglu(f"{at}mlp.experts.{expert}.", 2048)
        yield from swiglu(at + "mlp.shared_experts.", 2048)
    at = "model.layers.61."
    for name, shape in (
        ("embed_tokens.weight", [129280, 7168]),
        ("enorm.weight", [7168]),
        ("hnorm.weight", [7168]),
        ("eh_proj.weight", [7168, 14336]),
        ("shared_head.norm.weight", [7168]),
        ("shared_head.head.weight", [129280, 7168]),
    ):
        yield at + name, shape, bf16


def test_names_shapes_and_types_of_v3_are_the_published_listing() -> None:
    expected = {name: (shape, dtype) for name, shape, dtype in published_listing()}
    entries = list(release_entries(V3, torch.bfloat16, fp8=True))
    ours = {entry.name: (list(entry.shape), str(entry.dtype).removeprefix("torch.")) for entry in entries}
    assert len(entries) == len(ours) == len(expected) == 91_991
    assert ours == expected
    elements = sum(torch.Size(entry.shape).numel() for entry in entries)
    assert elements == 684_531_386_000
    assert round(sum(entry.bytes for entry in entries) / 2**30, 1) == 641.3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_nextn_predict_layers": 2, "q_lora_rank": None},
        {"tie_word_embeddings": True},
        {"scoring_func": "softmax", "norm_topk_prob": False, "num_nextn_predict_layers": 0},
        {"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 16, "mscale": 0.7}},
    ],
    ids=["v3", "two depths", "tied", "v2", "yarn"],
)
def test_ours_there_and_back_is_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(tiny_config(**LARGER | changes))
    save_model(model, tmp_path / "ours", 0, 1, 2)
    convert(tmp_path / "ours", tmp_path / "hub", shard_bytes=200_000)
    assert (tmp_path / "hub" / INDEX).is_file()
    back = imported(tmp_path / "hub", tmp_path / "back", None, 10**9, quiet)
    assert back.files == 1
    [note] = back.notes
    assert "no tokenizer.json" in note
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    again = load_model(tmp_path / "hub")
    assert again.config == model.config and same(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float32], ids=["default", "bfloat16", "float32"])
def test_fp8_multiplied_out_and_exported_again_is_the_same_bytes(
    folder: Path, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    convert(folder, tmp_path / "one", fp8=True)
    done = imported(tmp_path / "one", tmp_path / "wide", dtype, 10**9, quiet)
    assert done.tensors == len(release_shapes(tiny_config(**LARGER)))
    convert(tmp_path / "wide", tmp_path / "two", fp8=True)
    convert(tmp_path / "two", tmp_path / "three")
    for other in ("two", "three"):
        for name in ("model.safetensors", "config.json"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / other / name).read_bytes(), other
    wide = tensors_of(tmp_path / "wide")
    matrices = [name for name in wide if is_block_matrix(name)]
    assert matrices and {wide[name].dtype for name in matrices} == {dtype or torch.bfloat16}
    assert json.loads((tmp_path / "one" / "config.json").read_text())["quantization_config"]["quant_method"] == "fp8"
    assert "quantization_config" not in json.loads((tmp_path / "wide" / "config.json").read_text())


def test_fp8_holds_what_quantizing_each_projection_gives_and_the_rest_in_bfloat16(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "fp8", fp8=True)
    before, after = tensors_of(folder), tensors_of(tmp_path / "fp8")
    for name, value in before.items():
        if is_block_matrix(name):
            elements, scale = quantize_blocks(value)
            assert torch.equal(after[name].view(torch.uint8), elements.view(torch.uint8))
            assert torch.equal(after[name + "_scale_inv"], scale)
        elif name.endswith("e_score_correction_bias"):
            assert after[name].dtype == torch.float32 and torch.equal(after[name], value)
        else:
            assert after[name].dtype == torch.bfloat16 and torch.equal(after[name], value.bfloat16())
    kinds = {name.split(".")[-2] for name in after if name.endswith("_scale_inv")}
    assert kinds == {
        "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_an_fp8_folder_loads_as_the_numbers_it_holds(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "fp8", fp8=True)
    stored = tensors_of(tmp_path / "fp8")
    model = load_model(tmp_path / "fp8")
    name = "model.layers.1.mlp.experts.5.down_proj.weight"
    expected = dequantize_blocks(stored[name], stored[name + "_scale_inv"])
    assert torch.equal(model.layers[1].experts.down_EDF[5], expected)  # type: ignore[union-attr]
    assert torch.equal(model.embedding.weight, stored["model.embed_tokens.weight"].float())


def test_scales_of_the_release_which_are_no_powers_of_two_keep_their_bytes(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "fp8", fp8=True)
    tensors = tensors_of(tmp_path / "fp8")
    for name in tensors:
        if name.endswith("_scale_inv"):
            tensors[name] = tensors[name] * 0.7331
    save_file(tensors, tmp_path / "fp8" / "model.safetensors", {"format": "pt"})
    convert(tmp_path / "fp8", tmp_path / "again", fp8=True, shard_bytes=300_000)
    assert same(tensors, tensors_of(tmp_path / "again"))


def test_shards_keep_to_their_size_and_a_matrix_stays_with_its_scales(folder: Path, tmp_path: Path) -> None:
    done = convert(folder, tmp_path / "fp8", fp8=True, shard_bytes=60_000)
    files = sorted((tmp_path / "fp8").glob("*.safetensors"))
    index = json.loads((tmp_path / "fp8" / INDEX).read_text())
    assert len(files) == done.files > 5
    assert [path.name for path in files] == [
        f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)
    ]
    for path in files:
        tensors = load_file(path)
        assert len(tensors) <= 2 or sum(value.nbytes for value in tensors.values()) <= 60_000
        assert {index["weight_map"][name] for name in tensors} == {path.name}
        assert all(name.removesuffix("_scale_inv") in tensors for name in tensors)
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors_of(tmp_path / "fp8").values())


def test_other_files_of_the_folder_come_along(folder: Path, tmp_path: Path) -> None:
    along = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md", "LICENSE-MODEL", "NOTICE")
    for name in (*along, "tokenization_moonshot.py", "modeling_deepseek.py"):
        (folder / name).write_text(f"content of {name}")
    done = convert(folder, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} >= {*along, "tokenization_moonshot.py"}
    assert done.notes == ["left out modeling_deepseek.py"]
    assert (tmp_path / "copy" / "chat_template.jinja").read_text() == "content of chat_template.jinja"
    assert (tmp_path / "copy" / "README.md").read_text() == "content of README.md"
    convert_folder(folder, tmp_path / "card", Conversion(), quiet, "a card of its own")
    assert (tmp_path / "card" / "README.md").read_text() == "a card of its own"


def test_an_interrupted_conversion_goes_on_after_its_last_whole_shard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(folder, tmp_path / "whole", fp8=True, shard_bytes=100_000)
    shards = len(list((tmp_path / "whole").glob("*.safetensors")))
    read: list[str] = []
    original = conversion.TensorFolder.read
    stop_at = [len(tensors_of(folder)) // 2]

    def counted(self: Any, name: str) -> torch.Tensor:
        if len(read) == stop_at[0]:
            raise KeyboardInterrupt
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(conversion.TensorFolder, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "torn", fp8=True, shard_bytes=100_000)
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "torn").glob("model*.safetensors")}
    assert 1 < len(done) < shards and not (tmp_path / "torn" / "config.json").exists()
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(tmp_path / "torn")
    stop_at[0] = 10**9
    convert(folder, tmp_path / "torn", fp8=True, shard_bytes=100_000)
    assert all((tmp_path / "torn" / name).stat().st_mtime_ns == time for name, time in done.items())
    assert sorted(p.name for p in (tmp_path / "torn").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )
    assert all(p.read_bytes() == (tmp_path / "torn" / p.name).read_bytes() for p in (tmp_path / "whole").iterdir())


def test_another_conversion_does_not_go_on_with_shards_of_the_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(path: Path, *_: Any, original: Any = conversion.write_shards, **__: Any) -> None:
        (path / "model-00001-of-00002.safetensors").write_bytes(b"half of something else")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "write_shards", stopped)
        with pytest.raises(KeyboardInterrupt):
            convert(folder, tmp_path / "torn", fp8=True)
    convert(folder, tmp_path / "torn", shard_bytes=400_000)
    assert same(tensors_of(folder), tensors_of(tmp_path / "torn"))


def test_a_folder_with_something_in_it_is_not_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "same").symlink_to(folder)
    for target, words in (
        ("full", "there already"),
        ("model/config.json", "there already"),
        ("dangling", "there already"),
        ("model", "the folder to be read"),
        ("same", "the folder to be read"),
        ("model/config.json/below", "config.json"),
    ):
        with pytest.raises(UserError, match=words):
            convert(folder, tmp_path / target)


def test_a_folder_with_a_mark_left_in_it_is_not_emptied_by_converting_it_to_itself(folder: Path) -> None:
    (folder / conversion.UNFINISHED).write_text("{}")
    with pytest.raises(UserError, match="the folder to be read"):
        convert(folder, folder)
    load_model(folder)


def test_a_prediction_layer_that_is_not_wanted_is_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    """The way out that the message about an embedding of its own names."""
    change(**{"model.layers.3.embed_tokens.weight": lambda t: t["model.embed_tokens.weight"] + 1})(folder)
    with pytest.raises(UserError, match="set num_nextn_predict_layers to 0"):
        convert(folder, tmp_path / "new")
    set_config(num_nextn_predict_layers=0)(folder)
    done = convert(folder, tmp_path / "new")
    assert "model.layers.3." in done.notes[0]
    assert not load_model(tmp_path / "new").predictions


def test_what_is_partly_quantized_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    """As stored: no wide matrix becomes FP8, and what the quantization says of itself is kept."""
    convert(folder, tmp_path / "fp8", fp8=True)
    wide = torch.full((130, 140), 0.123456, dtype=torch.bfloat16)
    change(**{UP: lambda t: wide, UP + "_scale_inv": None})(tmp_path / "fp8")
    raw = json.loads((tmp_path / "fp8" / "config.json").read_text())
    quantization = raw["quantization_config"] | {"scale_fmt": "ue8m0", "modules_to_not_convert": [UP]}
    set_config(quantization_config=quantization)(tmp_path / "fp8")
    convert(tmp_path / "fp8", tmp_path / "same")
    assert same(tensors_of(tmp_path / "fp8"), tensors_of(tmp_path / "same"))
    assert json.loads((tmp_path / "same" / "config.json").read_text())["quantization_config"] == quantization
    convert(tmp_path / "fp8", tmp_path / "all", fp8=True)
    assert tensors_of(tmp_path / "all")[UP].dtype == torch.float8_e4m3fn


def test_a_file_that_cannot_be_read_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenizer.json").write_text("{}")
    plain = Path.open

    def refused(self: Path, *given: Any, **named: Any) -> Any:
        if self.name == "tokenizer.json":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *given, **named)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"tokenizer\.json: Permission denied"):
        convert(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(UserError, match="free"):
        convert(folder, tmp_path / "new")
    assert not list((tmp_path / "new").glob("*.safetensors"))


def change(**changes: Any) -> Callable[[Path], None]:
    """Set tensors, or take them away where the value is None."""

    def damage(folder: Path) -> None:
        [path] = folder.glob("*.safetensors")
        tensors = load_file(path)
        for name, value in changes.items():
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value(tensors)
        save_file(tensors, path, {"format": "pt"})

    return damage


def set_config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


UP = "model.layers.1.mlp.experts.3.up_proj.weight"
DEFECTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing tensor": (change(**{UP: None}), (UP, "lacks")),
    "wrong shape": (change(**{UP: lambda t: torch.ones(3, 4)}), (UP, "[3, 4]")),
    "missing scales": (change(**{UP + "_scale_inv": None}), (UP, "_scale_inv")),
    "scales of another shape": (
        change(**{UP + "_scale_inv": lambda t: torch.ones(1, 1)}),
        (UP + "_scale_inv", "[2, 2]"),
    ),
    "config that promises a second prediction layer": (
        set_config(num_nextn_predict_layers=2),
        ("model.layers.4.", "lacks"),
    ),
    "config that forgets the prediction layer": (
        set_config(num_nextn_predict_layers=None),
        ("model.layers.3.", "num_nextn_predict_layers"),
    ),
    "config with fewer layers": (set_config(num_hidden_layers=2), ("model.layers.",)),
    "a prediction layer with an embedding of its own": (
        change(**{"model.layers.3.embed_tokens.weight": lambda t: t["model.embed_tokens.weight"] + 1}),
        ("model.layers.3.embed_tokens.weight", "differs"),
    ),
    "integers": (
        change(**{"model.norm.weight": lambda t: torch.ones(140, dtype=torch.int64)}),
        ("model.norm.weight", "I64"),
    ),
    "another quantization": (set_config(quantization_config={"quant_method": "awq"}), ("quantization_config", "awq")),
    "keys for groups of heads": (set_config(num_key_value_heads=1), ("num_key_value_heads",)),
    "V3 with a softmax gate": (set_config(scoring_func="softmax"), ("scoring_func", "softmax")),
    "V3 without its way of choosing": (set_config(topk_method="greedy"), ("topk_method", "greedy")),
}


@pytest.mark.parametrize(("damage", "words"), DEFECTS.values(), ids=list(DEFECTS))
@pytest.mark.parametrize("way", ["import", "load"])
def test_a_defect_is_named_precisely(
    folder: Path, damage: Callable[[Path], None], words: tuple[str, ...], way: str, tmp_path: Path
) -> None:
    convert(folder, tmp_path / "fp8", fp8=True)
    damage(tmp_path / "fp8")
    if way == "load" and damage is DEFECTS["config that forgets the prediction layer"][0]:
        load_model(tmp_path / "fp8")  # to look at less than there is, is no mistake
        return
    with pytest.raises(UserError) as caught:
        if way == "import":
            imported(tmp_path / "fp8", tmp_path / "new", None, 10**9, quiet)
        else:
            load_model(tmp_path / "fp8")
    for word in (*words, str(tmp_path / "fp8")):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("new/*.safetensors"))


def lose_a_shard(folder: Path) -> None:
    (folder / "model-00002-of-00004.safetensors").unlink()


def cut_a_shard(folder: Path) -> None:
    path = folder / "model-00003-of-00004.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_the_index(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": [')


def repeat_a_tensor(folder: Path) -> None:
    (folder / INDEX).unlink()
    save_file({"model.norm.weight": torch.ones(140)}, folder / "model-extra.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_a_shard, ("model-00002-of-00004.safetensors", "lacks the shard")),
        (cut_a_shard, ("model-00003-of-00004.safetensors", "damaged")),
        (spoil_the_index, (INDEX, "damaged")),
        (repeat_a_tensor, ("model.norm.weight", "twice")),
    ],
)
def test_a_defect_of_shards_is_named(
    folder: Path, damage: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    size = sum(value.nbytes for value in tensors_of(folder).values())
    assert convert(folder, tmp_path / "shards", shard_bytes=size // 3).files == 4
    damage(tmp_path / "shards")
    for act in (load_model, lambda path: convert(path, tmp_path / "new")):
        with pytest.raises(UserError) as caught:
            act(tmp_path / "shards")
        assert all(word in str(caught.value) for word in words)


def test_what_is_not_the_models_is_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(**{"value_head.weight": lambda t: torch.ones(4), frequencies: lambda t: torch.ones(2)})(folder)
    done = convert(folder, tmp_path / "new")
    assert "value_head.weight" in done.notes[0] and "inv_freq" not in done.notes[0]
    assert "value_head.weight" not in tensors_of(tmp_path / "new")


def test_weights_that_are_not_finite_are_not_made_fp8(folder: Path, tmp_path: Path) -> None:
    change(**{UP: lambda t: t[UP] * float("nan")})(folder)
    with pytest.raises(UserError, match=UP):
        convert(folder, tmp_path / "new", fp8=True)


PEAK = """
import sys
from sapience.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_import_and_export_of_two_gigabytes_need_little_more_than_a_shard(tmp_path: Path) -> None:
    """Peak under 1.3 shards + 500 MB, Python and torch included; the run's own file is one of 2 GB."""
    config = tiny_config(
        vocab_size=32000, hidden_size=1024, moe_intermediate_size=512, intermediate_size=4096, num_hidden_layers=5,
        n_routed_experts=64, q_lora_rank=512, kv_lora_rank=256, num_attention_heads=16, qk_nope_head_dim=64,
        qk_rope_head_dim=32, v_head_dim=64,
    )  # fmt: skip
    save_model(tiny_model(config), tmp_path / "ours", 0, 1, 2)
    assert sum(path.stat().st_size for path in (tmp_path / "ours").iterdir()) > 2e9
    shard = 0.4
    chain = [
        ["export", "ours", "plain"],
        ["export", "ours", "fp8", "--fp8"],
        ["import", "plain", "back"],
        ["import", "fp8", "wide", "--dtype", "float32"],
    ]
    for command, source, target, *options in chain:
        arguments = [command, str(tmp_path / source), str(tmp_path / target), "--shard-gb", str(shard), *options]
        done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
        peak = 1024 * int(done.stdout.split()[-1])
        print(f"{command} {source}: peak {peak / 1e6:.0f} MB")
        assert peak < 1.3 * shard * 1e9 + 500e6, f"{command} {source}: {peak / 1e6:.0f} MB"
    assert same(tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "back"))
