"""How the server ends, how it breaks, and what many clients at once get of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from api_server import (
    CHAT,
    TOKENIZER,
    FakeEngine,
    Running,
    counts,
    fake_speaker,
    network,
    real_speaker,
    running,
    says,
    until,
)
from openai import OpenAI

from sapience.corpus.chat import Message
from sapience.model.huggingface import save_model
from sapience.recipe import UserError
from sapience.serving.answering import Settings, answer, load_chat_model
from sapience.serving.conversation import Conversation
from sapience.serving.limits import Limits
from sapience.serving.models import Speaker, offered
from sapience.serving.server import serve

ROOT = Path(__file__).resolve().parents[2]
HI: list[Any] = [{"role": "user", "content": "Ada finds"}]


def health(server: Running) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=10) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_accepted_is_finished(stream: bool) -> None:
    engine = FakeEngine(lambda prompt, seed: TOKENIZER.encode("Ada finds a boat. " * 4), delay=0.01)
    with running(fake_speaker(engine), Limits(grace=20)) as server:
        said: list[str] = []

        def ask() -> None:
            made = server.client().chat.completions.create(model="tiny", messages=HI, stream=stream)
            if stream:
                said.append("".join(chunk.choices[0].delta.content or "" for chunk in made))
            else:
                said.append(made.choices[0].message.content)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: engine.running == 1)
        server.server.drain()
        assert health(server) == (503, {"status": "stopping", "loaded": ["tiny"], "waiting": 0, "running": 1})
        with pytest.raises(openai.InternalServerError) as error:
            server.client().chat.completions.create(model="tiny", messages=HI)
        assert error.value.status_code == 503 and error.value.code == "shutting_down"
        asking.join(20)
        assert said == ["Ada finds a boat. " * 4]
        server.thread.join(5)
        assert not server.thread.is_alive() and not server.house.thread.alive


@pytest.mark.parametrize("stream", [False, True])
def test_grace_that_is_over_ends_answers_with_an_error(stream: bool) -> None:
    with running(fake_speaker(FakeEngine(counts, delay=0.01)), Limits(grace=0.3)) as server:
        failed: list[openai.APIError] = []

        def ask() -> None:
            try:
                for _ in server.client().chat.completions.create(model="tiny", messages=HI, stream=stream):
                    pass
            except openai.APIError as error:
                failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: server.engine.running == 1)
        server.server.drain()
        asking.join(10)
        assert failed[0].code == "shutting_down"
        server.thread.join(5)
        assert not server.thread.is_alive()


def test_an_engine_that_fails_ends_every_answer_and_is_said() -> None:
    engine = FakeEngine(counts, delay=0.005)
    with running(fake_speaker(engine)) as server:
        client = server.client()
        stream = client.chat.completions.create(model="tiny", messages=HI, stream=True)
        next(iter(stream))
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(client.chat.completions.create, model="tiny", messages=HI)
            until(lambda: engine.running == 2)
            engine.fails = RuntimeError("out of memory")
            with pytest.raises(openai.InternalServerError) as error:
                whole.result(10)
            assert error.value.code == "engine_failed"
        with pytest.raises(openai.APIError, match="engine failed"):
            list(stream)
        assert health(server)[0] == 503 and health(server)[1]["status"] == "failed"
        with pytest.raises(openai.InternalServerError, match="engine failed"):
            client.chat.completions.create(model="tiny", messages=HI)


def test_fifty_streams_at_once_each_with_its_own_answer() -> None:
    """Of the real engine: what each gets is what it gets alone."""
    with running(real_speaker()) as server:

        def ask(number: int) -> tuple[str, str | None, int]:
            text, end, used = "", None, 0
            for chunk in server.client().chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": f"{number} boats"}], seed=number, max_tokens=30,
                stream=True, stream_options={"include_usage": True},
            ):  # fmt: skip
                used = chunk.usage.completion_tokens if chunk.usage else used
                for choice in chunk.choices:
                    text, end = text + (choice.delta.content or ""), choice.finish_reason or end
            return text, end, used

        with ThreadPoolExecutor(50) as pool:
            together = list(pool.map(ask, range(50)))
        assert all(end in ("stop", "length") and used for _, end, used in together)
        assert len({text for text, _, _ in together}) > 40
        alone = {number: ask(number) for number in (0, 17, 49)}
        assert all(together[number] == alone[number] for number in alone)
        assert server.speaker.engine.running == 0 and server.house.thread.open == 0


def test_many_answers_to_one_slow_loop_are_all_whole() -> None:
    with (
        running(fake_speaker(FakeEngine(says("Ada finds a boat in the garden. ")))) as server,
        ThreadPoolExecutor(20) as pool,
    ):
        client = server.client()
        wish: Any = {"model": "tiny", "messages": HI, "n": 5}
        for reply in pool.map(lambda _: client.chat.completions.create(**wish), range(20)):
            assert [one.message.content for one in reply.choices] == ["Ada finds a boat in the garden. "] * 5


def test_a_model_is_loaded_once_and_stops_nobody_meanwhile() -> None:
    with running(fake_speaker(FakeEngine(says("yes")))) as server:
        loads: list[Path] = []
        loaded = threading.Event()

        def load(folder: Path) -> Speaker:
            loads.append(folder)
            assert loaded.wait(10)
            return fake_speaker(FakeEngine(says("later")))

        server.house.shelf._load = load
        with ThreadPoolExecutor(4) as pool:
            ask = partial(server.client().chat.completions.create, messages=HI)
            later = [pool.submit(ask, model="tiny@broken") for _ in range(3)]
            until(lambda: len(loads) == 1)
            assert ask(model="tiny").choices[0].message.content == "yes"
            loaded.set()
            assert [one.result(10).choices[0].message.content for one in later] == ["later"] * 3
        assert len(loads) == 1


def sapience(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sapience", *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    for seed, stage in enumerate(("pretrain", "specialise/math", "finetune")):
        folder = run / stage / "model"
        save_model(network(seed, 128), folder, TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id)
        TOKENIZER.save(folder, CHAT.template if stage != "pretrain" else None)
    (run / "recipe.yaml").write_text("name: tiny\n")
    return run


def test_the_command_serves_a_run_and_ends_when_told(run: Path) -> None:
    with sapience("serve", str(run), "--port", "0", SAPIENCE_API_KEY="secret") as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving tiny@finetune, 2 more when asked for: page http://127.0.0.1:"), line
            url = line.split("API ")[1].split()[0]
            client = OpenAI(base_url=url, api_key="secret", max_retries=0, timeout=30)
            assert {model.id for model in client.models.list()} == {
                "tiny@finetune", "tiny@pretrain", "tiny@specialise/math",
            }  # fmt: skip
            about = client.models.retrieve("tiny@pretrain").sapience  # type: ignore[attr-defined]
            assert about == {"context": 128, "taught": False, "system_prompt": "", "loaded": False}
            wish: Any = {"messages": HI, "seed": 5, "temperature": 0.7, "max_tokens": 20}
            answers = {
                name: client.chat.completions.create(model=name, **wish).choices[0].message.content
                for name in ("tiny@finetune", "tiny@specialise/math", "tiny@pretrain")
            }
            assert len(set(answers.values())) == 3
            told = Conversation(turns=[Message("user", HI[0]["content"])])
            model = load_chat_model(run / "finetune" / "model")
            assert answers["tiny@finetune"] == answer(model, told, Settings(0.7, 20, 5), lambda _: None).text
            with urllib.request.urlopen(url.removesuffix("v1")) as page:
                assert page.headers["Content-Security-Policy"] and b"<title>sapience</title>" in page.read()
            long = client.chat.completions.create(model="tiny@finetune", messages=HI, stream=True, seed=1)
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            chunks = list(long)
            assert chunks[-1].choices[0].finish_reason in ("stop", "length")
            assert process.wait(20) == 0
            assert process.stdout.read() == "serving stopped\n"
        finally:
            process.kill()
        assert process.stderr is not None and process.stderr.read() == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "no-such-host.invalid"])
def test_a_network_is_served_with_a_key_only(run: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAPIENCE_API_KEY", raising=False)
    with pytest.raises(UserError, match="set SAPIENCE_API_KEY"):
        serve(run / "finetune" / "model", host, 0, Limits(), 1, None, 0, False)
    monkeypatch.setenv("SAPIENCE_API_KEY", "two\nlines")
    with pytest.raises(UserError, match="no header can bear"):
        serve(run / "finetune" / "model", host, 0, Limits(), 1, None, 0, False)


def test_a_folder_offers_the_model_in_it(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own").symlink_to(run / "finetune" / "model")
    assert offered(tmp_path / "own") == ("own", {"own": tmp_path / "own"})
    chosen, folders = offered(run / "specialise" / "math" / "model")
    assert chosen == "tiny@specialise/math" and list(folders) == [chosen, "tiny@finetune", "tiny@pretrain"]
