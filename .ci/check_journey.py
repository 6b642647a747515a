"""What a finished journey must have left behind, checked from outside, through files and `--json` output only.

python .ci/check_journey.py RUN LOG_OF_A_SECOND_RUN STATUS_JSON GENERATED_JSON CHAT_JSON SAMPLES_JSON
"""

import json
import math
import re
import sys
from pathlib import Path

STAGES = (
    "corpus", "tokenizer", "pretrain", "extend", "specialise", "distill", "review", "finetune", "reward", "reinforce",
    "evaluate", "report",
)  # fmt: skip
MODELS = ("pretrain", "extend", "specialise/math", "specialise/code", "finetune", "reward", "reinforce")


def main(run: Path, again: Path, status: Path, generated: Path, chat: Path, samples: Path) -> None:
    """Say what was checked; an AssertionError names what does not hold."""
    stages = json.loads(status.read_text())["stages"]
    assert {name: stage["state"] for name, stage in stages.items()} == dict.fromkeys(STAGES, "finished"), stages
    print("checked: all twelve stages are finished, each with its manifest")

    log = again.read_text()
    assert all(f"{name}: already made" in log for name in STAGES), log
    print("checked: run again, nothing is made again")

    base = stages["pretrain"]["figures"]
    measured, compressed = base["bits_per_byte"], base["xz_bits_per_byte"]
    assert measured and measured.keys() == compressed.keys()
    assert all(0 < value < 9 for value in measured.values()), measured
    losses = [json.loads(line)["loss"] for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0], losses
    print(f"checked: the loss falls from {losses[0]:.2f} to {losses[-1]:.2f}, held-out text is measured beside lzma")

    for stage in MODELS:
        files = {path.name for path in (run / stage / "model").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= files, files
    config = json.loads((run / "extend" / "model" / "config.json").read_text())
    assert config["model_type"] == "deepseek_v3"
    assert config["max_position_embeddings"] >= stages["extend"]["figures"]["context"]
    for stage in MODELS[2:]:
        tokenizer = json.loads((run / stage / "model" / "tokenizer_config.json").read_text())
        assert "messages" in tokenizer["chat_template"]
    print("checked: all seven models lie in Hugging Face's layout, those that answer with a chat template")

    measured = stages["evaluate"]["figures"]
    assert measured["accuracy"].keys() == {"base", "extended", "finetune", "reinforce"}
    assert measured["expert_accuracy"].keys() == {"math", "code"}
    for key in ("harmful", "harmless"):
        assert 0 <= measured["refusal"][key] <= 1
    assert 0 <= measured["admits_ignorance"] <= 1 and 0 <= measured["format_rate"] <= 1
    assert 0 <= stages["reward"]["figures"]["pair_accuracy"] <= 1
    assert stages["reinforce"]["figures"]["reward_model"] and stages["reinforce"]["figures"]["unjudged"] == 0
    print("checked: every model was measured, the assistant's manners too, and the reward model on held-out pairs")

    page = (run / "report" / "report.html").read_text()
    assert "<svg" in page and not re.search(r"""(src|href)=["']?(https?:)?//""", page), "the report loads something"
    print("checked: the report has pictures and loads nothing from elsewhere")

    assert json.loads(generated.read_text())["text"]
    assert json.loads(chat.read_text())["tokens"] > 0
    found = json.loads(samples.read_text())
    assert found["found"] > 0 and found["samples"]
    print("checked: a model continues a text, the assistant answers, and what was drawn can be read")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
