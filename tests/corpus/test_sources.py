"""Packages that are not installed, packages that are, and data sets of the hub: read without a network."""

import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sapience.corpus.reading import read_or_explain
from sapience.corpus.records import Reading, Record, SourceMissing
from sapience.recipe import Recipe, UserError

PAGE = "<html><body><h1>Title</h1><p>A paragraph of the manual, long enough to be prose.</p></body></html>"


def read(source: dict[str, Any]) -> tuple[list[Record], Reading]:
    section = Recipe.model_validate({"corpus": {"sources": [{"name": "s", "domain": "d"} | source]}}).corpus.sources[0]
    reading = Reading(1_000_000)
    return list(read_or_explain(section, reading)), reading  # type: ignore[arg-type]


def test_a_wheel_in_the_cache_is_read_without_asking_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "sapience" / "wheels" / "manual_1.5"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "manual-1.5-py3-none-any.whl", "w") as archive:
        archive.writestr("manual/page.html", PAGE)
        archive.writestr("manual/code.py", "x = 1")
    records, reading = read({"type": "wheel", "packages": ["manual==1.5"], "include": ["manual/*.html"]})
    assert [record.text for record in records] == ["Title\nA paragraph of the manual, long enough to be prose."]
    assert reading.version == "manual 1.5"
    with pytest.raises(UserError, match="include"):
        read({"type": "wheel", "packages": ["manual==1.5"], "include": ["nothing/*.html"]})


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb on this machine")
def test_a_debian_package_in_the_cache_is_unpacked_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build, cache = tmp_path / "build", tmp_path / "sapience" / "debian"
    (build / "DEBIAN").mkdir(parents=True)
    (build / "usr").mkdir()
    cache.mkdir(parents=True)
    (build / "usr" / "page.html").write_text(PAGE)
    control = "Package: manual\nVersion: 2.0\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: pages\n"
    (build / "DEBIAN" / "control").write_text(control)
    subprocess.run(
        ["dpkg-deb", "--build", str(build), str(cache / "manual_2.0_all.deb")],
        check=True,
        capture_output=True,
    )
    records, reading = read({"type": "debian", "packages": ["manual"], "include": ["usr/*.html"]})
    assert len(records) == 1 and records[0].place == "usr/page.html" and reading.version == "manual 2.0"


def test_what_cannot_be_downloaded_is_missing_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "E: cannot connect\n")
    )
    for source in ({"type": "wheel", "packages": ["x"]}, {"type": "debian", "packages": ["x"]}):
        with pytest.raises(SourceMissing, match=r"cannot connect|has no apt-get"):
            read(source | {"include": ["*"]})
        with pytest.raises(UserError, match="optional: true"):
            read(source | {"include": ["*"], "optional": False})


def test_installed_packages_are_read_and_not_imported() -> None:
    before = set(sys.modules)
    records, reading = read({"type": "installed", "modules": ["stdlib", "hypothesis"], "kind": "code"})
    assert not {name for name in set(sys.modules) - before if name.startswith("antigravity")}
    places = {record.place for record in records}
    assert {"json/decoder.py", "hypothesis/core.py"} <= places
    assert not any("/test" in place or "site-packages" in place for place in places)
    assert reading.version.startswith("Python 3.") and "hypothesis" in reading.version
    described = {r.place: r.text for r in read({"type": "installed", "modules": ["stdlib"], "part": "docstrings"})[0]}
    assert "Simple JSON <https://json.org> decoder" in described["json/decoder.py"]
    with pytest.raises(UserError, match="pip install no_such_package"):
        read({"type": "installed", "modules": ["no_such_package"]})


def test_data_sets_of_the_hub_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(name: str, config: str | None, **options: Any) -> Any:
        asked.update(options, name=name, config=config)

        class Rows(list[dict[str, Any]]):
            info = types.SimpleNamespace(version="1.0.0")

        return Rows([{"body": "first"}, {"body": None}, {"body": "x" * 2_000_000}, {"body": "last"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    source = {
        "type": "huggingface",
        "dataset": "someone/texts",
        "config": "en",
        "field": "body",
        "revision": "abc",
    }
    records, reading = read(source)
    assert [record.text for record in records] == ["first", "last"]
    assert reading.counts == {"no text": 1, "too large": 1} and reading.version == "abc"
    assert asked == {
        "name": "someone/texts",
        "config": "en",
        "split": "train",
        "revision": "abc",
        "streaming": True,
    }
    with pytest.raises(UserError, match="no column 'text': it has body"):
        read(source | {"field": "text"})
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install"):
        read(source)
