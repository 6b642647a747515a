"""A model card says what the run's directory says: sources and licences, stages and figures, sizes; and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_run import HOSTILE, manifest, write_synthetic_run
from tiny_models import tiny_config, tiny_model

from sapience.evaluation.model_card import model_card, run_of, steps_to
from sapience.model.huggingface import save_model
from sapience.planning.parameters import count_parameters

CONFIG = tiny_config(vocab_size=300, max_position_embeddings=4096)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = write_synthetic_run(tmp_path / "runs" / "synthetic")
    for stage in ("pretrain/model", "extend/model", "finetune/model", "specialise/math/model"):
        save_model(tiny_model(CONFIG), made / stage, 0, 1, 2)
    sources = [
        {"name": "web", "type": "huggingface", "dataset": "some/web", "domain": "en", "language": "en", "weight": 1},
        {"name": "more", "type": "files", "path": "more", "domain": "zh", "language": "zh", "weight": 1},
    ]
    recipe = {"name": "synthetic", "corpus": {"sources": sources}, "extend": {"model": "before@pretrain"}}
    recipe["finetune"] = {"samples": ["mine.jsonl"]}
    (made / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return made


def card_of(model: Path) -> tuple[dict[str, Any], str]:
    """The header that hubs read, and the text."""
    written = model_card(model, "shown-name")
    assert written is not None
    found = re.match(r"---\n(.*?)---\n\n(.*)", written, re.DOTALL)
    assert found is not None
    header: dict[str, Any] = yaml.safe_load(found[1])
    return header, found[2]


def test_sources_and_licences_are_the_provenances(run: Path) -> None:
    header, text = card_of(run / "pretrain" / "model")
    assert header["license"] == "other" and header["license_name"] == "MPL-2.0; PSF-2.0"
    assert header["language"] == ["en", "zh"] and header["datasets"] == ["some/web"]
    for source in json.loads((run / "corpus" / "provenance.json").read_text())["sources"]:
        if source["name"] != HOSTILE:
            row = next(line for line in text.splitlines() if line.startswith(f"| {source['name']} |"))
            assert source["license"] in row and f"{source['documents']:,}" in row


def test_what_a_source_is_called_becomes_no_markup(run: Path) -> None:
    _, text = card_of(run / "pretrain" / "model")
    assert "<script" not in text and "&lt;script" in text


def test_sizes_are_the_models(run: Path) -> None:
    header, text = card_of(run / "extend" / "model")
    count = count_parameters(CONFIG)
    for figure in (count.main, count.active, count.mtp, 4096):
        assert f"{figure:,}" in text
    assert "# shown-name" in text and "AutoModelForCausalLM" in text and header["library_name"] == "transformers"


def test_a_stages_card_tells_of_no_later_stage(run: Path) -> None:
    assert steps_to("pretrain") == ("corpus", "tokenizer", "pretrain")
    base, longer, chat = (card_of(run / stage / "model")[1] for stage in ("pretrain", "extend", "finetune"))
    assert "| pretrain |" in base and "| extend |" not in base and "before@pretrain" not in base
    assert "| extend |" in longer and "before@pretrain" in longer and "mine.jsonl" not in longer
    assert "mine.jsonl" in chat and "apply_chat_template" in chat and "apply_chat_template" not in longer


def test_a_card_holds_the_scores_of_its_own_model_alone(run: Path) -> None:
    figures = {
        "accuracy": {"base": 0.11, "finetune": 0.58}, "interval": {"base": [0.09, 0.13], "finetune": [0.55, 0.61]},
        "bits_per_byte": {"base": {"en": 2.471}, "extended": {"en": 2.381}},
        "behaviour": {"finetune": {"refused": {"share": 0.93, "wishes": 60}}},
    }  # fmt: skip
    manifest(run / "evaluate", 5.0, figures)
    base, longer, chat = (card_of(run / stage / "model")[1] for stage in ("pretrain", "extend", "finetune"))
    assert "11 % (9 % to 13" in base and "2.471" in base
    assert "2.381" in longer and "2.471" not in longer and "solved" not in longer
    assert "58 % (" in chat and "harmful wishes refused | 93 % of 60" in chat
    assert "93 %" not in base and "2.471" not in chat


def test_a_run_that_only_fine_tuned_claims_no_data_of_stages_it_does_not_have(run: Path) -> None:
    recipe = {"stages": ["finetune"], "finetune": {"model": "~/theirs", "samples": ["mine.jsonl"]}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    _, text = card_of(run / "finetune" / "model")
    assert "mine.jsonl" in text and "~/theirs" in text
    for word in ("own experts", "come with sapience", "solved problems"):
        assert word not in text


def test_a_model_without_prediction_modules_is_not_said_to_draft(run: Path) -> None:
    plain = tiny_config(scoring_func="softmax", norm_topk_prob=False, num_nextn_predict_layers=0)
    save_model(tiny_model(plain), run / "pretrain" / "model", 0, 1, 2)
    header, text = card_of(run / "pretrain" / "model")
    assert "deepseek_v2" in header["tags"] and "DeepSeek-V2" in text and "can draft" not in text
    assert "can draft" in card_of(run / "extend" / "model")[1]


def test_a_reward_model_is_said_to_be_a_judge(run: Path) -> None:
    save_model(tiny_model(CONFIG), run / "reward" / "model", 0, 1, 2)
    header, text = card_of(run / "reward" / "model")
    assert header["pipeline_tag"] == "text-classification"
    assert "generate(" not in text and "reward_model" in text and "preference pairs" in text


def test_an_expert_belongs_to_its_stage(run: Path) -> None:
    assert run_of(run / "specialise" / "math" / "model") == (run, "specialise")
    assert "stage `specialise`" in card_of(run / "specialise" / "math" / "model")[1]


def test_a_folder_of_nobodys_run_has_no_card(tmp_path: Path) -> None:
    save_model(tiny_model(CONFIG), tmp_path / "alone", 0, 1, 2)
    assert run_of(tmp_path / "alone") is None and model_card(tmp_path / "alone", "alone") is None
