"""lm-evaluation-harness on an exported folder, with its own GSM8K and WikiText tasks and local files instead of the hub.

    pip install -e '.[harness]' -c constraints.txt
    sapience export demo@reinforce exported
    python benchmarks/harness_local.py exported --gsm8k train.jsonl test.jsonl --wikitext wiki.test.txt --limit 20

GSM8K's files have `question` and `answer`; WikiText's is the raw test split, cut into articles at its headings. Files may
be compressed by zstd. Prompts, shots, filters and metrics are the harness's. Prints one JSON line per figure.
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def text_of(path: Path) -> str:
    """A text file, or one compressed by zstd."""
    if path.suffix != ".zst":
        return path.read_text(encoding="utf-8")
    import zstandard

    with open(path, "rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read().decode("utf-8")


def plain(path: Path, folder: Path) -> str:
    """The same file uncompressed, for `datasets`."""
    copy = folder / f"{path.parent.name}-{path.name.removesuffix('.zst')}"
    copy.write_text(text_of(path), encoding="utf-8")
    return str(copy)


def articles(path: Path, folder: Path) -> str:
    """WikiText's test split as JSON lines of `page`: an article begins at a heading of one equals sign."""
    pages = re.split(r"(?m)^(?= = [^=\n]+ = $)", text_of(path))
    lines = [json.dumps({"page": page}) for page in pages if page.strip()]
    target = folder / "wikitext.jsonl"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(target)


def local(task: str, files: dict[str, str], folder: Path) -> str:
    """The harness's own task with files in the place of its data set, as a task file."""
    import lm_eval
    import yaml

    original = Path(lm_eval.__file__).parent / "tasks" / task / f"{task}.yaml"
    content = {
        "include": str(original),
        "task": f"{task}_local",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }
    target = folder / f"{task}_local.yaml"
    target.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(target)


def main() -> None:
    """Parse, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder written by `sapience export`")
    parser.add_argument("--gsm8k", nargs=2, type=Path, metavar=("TRAIN", "TEST"), help="GSM8K's two files")
    parser.add_argument("--wikitext", type=Path, metavar="FILE", help="WikiText-2's raw test split")
    parser.add_argument("--limit", type=int, help="documents of each task; all without it")
    parser.add_argument("--length", type=int, default=1024, help="context in tokens")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HOME"] = name
        from lm_eval import simple_evaluate

        tasks = []
        if arguments.gsm8k:
            train, test = (plain(path, folder) for path in arguments.gsm8k)
            tasks.append(local("gsm8k", {"train": train, "test": test}, folder))
        if arguments.wikitext:
            page = articles(arguments.wikitext, folder)
            tasks.append(local("wikitext", dict.fromkeys(("train", "validation", "test"), page), folder))
        done = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(arguments.folder), "dtype": "float32", "max_length": arguments.length},
            tasks=tasks,
            limit=arguments.limit,
            device="cpu",
            batch_size=8,
        )
    for task, figures in done["results"].items():
        documents = done["n-samples"][task]["effective"]
        for metric, value in figures.items():
            if isinstance(value, float) and "stderr" not in metric:
                print(
                    json.dumps(
                        {"what": "lm-eval", "task": task, "metric": metric, "value": value, "documents": documents}
                    )
                )


if __name__ == "__main__":
    main()
