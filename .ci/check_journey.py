"""What a finished journey must have left behind, checked from outside, through files and `--json` output only.

python .ci/check_journey.py RUN LOG_OF_A_SECOND_RUN STATUS_JSON GENERATED_JSON
"""

import json
import math
import re
import sys
from pathlib import Path

STAGES = ("corpus", "tokenizer", "pretrain", "extend", "evaluate", "report")


def main(run: Path, again: Path, status: Path, generated: Path) -> None:
    """Say what was checked; an AssertionError names what does not hold."""
    stages = json.loads(status.read_text())["stages"]
    assert {name: stage["state"] for name, stage in stages.items()} == dict.fromkeys(STAGES, "finished"), stages
    print("checked: all six stages are finished, each with its manifest")

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

    for stage in ("pretrain", "extend"):
        files = {path.name for path in (run / stage / "model").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= files, files
    config = json.loads((run / "extend" / "model" / "config.json").read_text())
    assert config["model_type"] == "deepseek_v3"
    assert config["max_position_embeddings"] >= stages["extend"]["figures"]["context"]
    print("checked: base and extended model lie in Hugging Face's layout")

    page = (run / "report" / "report.html").read_text()
    assert "<svg" in page and not re.search(r"""(src|href)=["']?(https?:)?//""", page), "the report loads something"
    print("checked: the report has pictures and loads nothing from elsewhere")

    assert json.loads(generated.read_text())["text"]
    print("checked: the model continues a text")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
