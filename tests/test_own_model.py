"""A newcomer's own model and data, through the recipe that comes for them, from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_config, tiny_model

from sapience.corpus.tokenizer import train_tokenizer
from sapience.model.huggingface import load_model, save_model

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "assistant-own-model.yaml"
QUICK = (
    "evaluate.behaviour=false", "evaluate.side_by_side=[]", "evaluate.chat_answer_tokens=4", "evaluate.repeats=0",
    "finetune.supervised.batch={rows: 2, micro_rows: 1}", "finetune.supervised.peak=3e-3", "parallel.threads=1",
)  # fmt: skip


def run(*arguments: str) -> str:
    """The command in a process of its own; what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sapience", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A Hugging Face folder, instructions in several layouts with a bad line, and problems."""
    tokenizer = train_tokenizer(["What is the colour of the sky? The sky is blue. Two plus two is four." * 40], 320, 1)
    config = tiny_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=256)
    tokenizer_folder = tmp_path / "model"
    save_model(tiny_model(config), tokenizer_folder, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    tokenizer.save(tokenizer_folder)
    lines: list[object] = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(20)
    ]
    lines += [
        {"prompt": "Colour of the sky?", "answer": "Blue."},
        {"instruction": "Add", "input": "2 2", "output": "4"},
    ]
    lines += [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, {"odd": 1}]
    (tmp_path / "instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems = [{"question": f"What is {n} plus one?", "answer": str(n + 1)} for n in range(60)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in problems))
    return tmp_path


def test_own_model_and_instructions_become_an_assistant_and_go_on_to_reinforcement(own: Path) -> None:
    given = (f"finetune.model={own / 'model'}", f"finetune.samples.0={own / 'instructions.jsonl'}")
    runs = ("--runs", str(own / "runs"))
    run("run", str(RECIPE), *given, *QUICK, *runs)
    made = own / "runs" / "assistant-own-model"
    figures = json.loads((made / "finetune" / "manifest.json").read_text())["figures"]
    assert figures["samples"] == 23 and figures["bad_lines"] == 1 and figures["loss"][1] < figures["loss"][0]
    assert load_model(made / "finetune" / "model").config == load_model(own / "model").config
    assert (
        "messages" in json.loads((made / "finetune" / "model" / "tokenizer_config.json").read_text())["chat_template"]
    )
    assert (made / "report" / "report.html").is_file()
    said = run("chat", str(made), "--message", "Say 3.", "--tokens", "8", "--json")
    assert json.loads(said)["tokens"] > 0

    problems = f"reinforce.problems={{files: [{{path: {own / 'problems.jsonl'}}}]}}"
    policy = "reinforce.policy={iterations: 2, prompts: 3, samples: 3, answer_tokens: 6, peak: 1.0e-4}"
    run("run", str(RECIPE), "stages=[finetune, reinforce]", *given, *QUICK, problems, policy, *runs)
    rollouts = [json.loads(line) for line in (made / "reinforce" / "rollouts.jsonl").read_text().split("\n") if line]
    assert len(rollouts) == 18 and all("plus one" in rollout["messages"][-1]["content"] for rollout in rollouts)
    assert (made / "reinforce" / "model" / "config.json").is_file()
