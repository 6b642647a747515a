"""Whether a server keeps its word for long: many streams at once, and every answer checked.

    python benchmarks/serve_soak.py                              # 200 streams, five minutes, a small random model
    python benchmarks/serve_soak.py --streams 50 --seconds 20
    python benchmarks/serve_soak.py --url http://127.0.0.1:8000/v1 --model demo@reinforce

Each stream asks again as soon as it has its answer. What is asked comes from a fixed set of questions and seeds, whose answers
were fetched one by one before, so that an answer that lost a piece or got one of another's is seen. One stream in twenty
leaves in the middle, as people do. Prints one JSON line: `streams`, `requests`, `lost` (without an end, or failed), `wrong`,
`left`, `tokens_per_s`, the server's resident memory at start and end, and requests that it still holds (`open`).
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

QUESTIONS = 40
LEAVES = 0.05


@contextmanager
def small_server() -> Iterator[tuple[str, str, int]]:
    """`sapience serve` with a random model: address, model, process."""
    from sapience.corpus.chat import ChatFormat
    from sapience.corpus.tokenizer import train_tokenizer
    from sapience.model.huggingface import save_model
    from sapience.model.transformer import Transformer
    from sapience.recipe.model import ModelSection

    tokenizer = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)
    config = ModelSection(
        vocab_size=288, hidden_size=64, intermediate_size=128, moe_intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
        n_routed_experts=8, num_experts_per_tok=2, n_group=1, topk_group=1, max_position_embeddings=512,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "soak"
        save_model(Transformer(config).initialize(0), model, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        tokenizer.save(model, ChatFormat(tokenizer).template)
        command = [sys.executable, "-m", "sapience", "serve", str(model), "--port", "0", "--max-waiting", "1000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().split("API ")[1].split()[0], "soak", process.pid
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def resident_mb(pid: int) -> int | None:
    """Of the server, where it runs on this machine."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return None
    return int(status["VmRSS"].split()[0]) // 1024


class Soak:
    """Clients, and what became of their requests."""

    def __init__(self, url: str, model: str, tokens: int) -> None:
        key = os.environ.get("SAPIENCE_API_KEY", "none")
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120, limits=limits
        )
        self._model, self._tokens = model, tokens
        self._wanted: dict[int, str] = {}
        self.counts: Counter[str] = Counter()

    async def prepare(self) -> None:
        """Fetch the answers one by one."""
        for number in range(QUESTIONS):
            self._wanted[number] = (await self._ask(number, random.Random(0), 0.0)) or ""
        self.counts.clear()

    async def run(self, streams: int, seconds: float) -> None:
        """Ask for them all at once, for so long."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._stream(random.Random(number), until) for number in range(streams)))

    async def open(self) -> int:
        """Answers that the server is still busy with."""
        reply = await self._client.get("/../health")
        told = reply.json()
        return int(told["waiting"] + told["running"])

    async def _stream(self, chance: random.Random, until: float) -> None:
        while time.monotonic() < until:
            number = chance.randrange(QUESTIONS)
            self.counts["requests"] += 1
            try:
                said = await self._ask(number, chance, LEAVES)
            except (httpx2.HTTPError, ValueError, KeyError):
                self.counts["lost"] += 1
                continue
            if said is None:
                self.counts["left"] += 1
            elif said != self._wanted[number]:
                self.counts["wrong"] += 1

    async def _ask(self, number: int, chance: random.Random, leaves: float) -> str | None:
        """An answer, or None where its client left. Raises where it has no end."""
        body: dict[str, Any] = {"model": self._model, "max_tokens": self._tokens, "seed": number, "stream": True}
        body |= {
            "messages": [{"role": "user", "content": f"What of boat {number}?"}],
            "stream_options": {"include_usage": True},
        }
        leave_after = chance.randrange(1, 10) if chance.random() < leaves else -1
        text, finish, pieces, done = "", None, 0, False
        async with self._client.stream("POST", "/chat/completions", json=body) as reply:
            reply.raise_for_status()
            async for line in reply.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line:
                    chunk = json.loads(line.removeprefix("data: "))
                    for choice in chunk["choices"]:
                        text += choice["delta"].get("content") or ""
                        finish = choice["finish_reason"] or finish
                    self.counts["tokens"] += (chunk.get("usage") or {}).get("completion_tokens", 0)
                    pieces += 1
                    if pieces == leave_after:
                        return None
        if not done or finish not in ("stop", "length"):
            raise ValueError("the answer has no end")
        return text


async def measured(url: str, model: str, pid: int, streams: int, seconds: float, tokens: int) -> dict[str, Any]:
    """The figures."""
    soak = Soak(url, model, tokens)
    await soak.prepare()
    before = resident_mb(pid)
    began = time.perf_counter()
    await soak.run(streams, seconds)
    took = time.perf_counter() - began
    await asyncio.sleep(1)
    names = ("requests", "lost", "wrong", "left")
    return {
        "what": "serve_soak", "streams": streams, "seconds": round(took, 1), **{name: soak.counts[name] for name in names},
        "tokens_per_s": round(soak.counts["tokens"] / took), "memory_mb_start": before, "memory_mb_end": resident_mb(pid),
        "open": await soak.open(),
    }  # fmt: skip


def main() -> None:
    """Take the arguments and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--model", help="one of its models")
    given = parser.parse_args()
    how = (given.streams, given.seconds, given.tokens)
    if given.url:
        print(json.dumps(asyncio.run(measured(given.url.rstrip("/"), given.model, -1, *how))))
        return
    with small_server() as (url, model, pid):
        print(json.dumps(asyncio.run(measured(url, model, pid, *how))))


if __name__ == "__main__":
    main()
