"""Pictures of schedules and lanes: the ones in the documentation are what the commands draw now, and show everything."""

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sapience.cli import main
from sapience.parallel.dimensions import data_parallel, overlapped_pair
from sapience.parallel.lanes import timed
from sapience.parallel.lanes_picture import lines, svg

DOCS = Path(__file__).resolve().parents[2] / "docs"
HALVES = ["--forward", "0.5", "--backward", "1", "--weight", "0.5"]
"""Two stages a rank: chunks half as long."""
COMMANDS = {
    "1f1b": ["schedule", "1f1b"],
    "interleaved": ["schedule", "interleaved", *HALVES],
    "zb1p": ["schedule", "zb1p"],
    "dualpipe": ["schedule", "dualpipe"],
    "dualpipev": ["schedule", "dualpipev", *HALVES],
} | {name: ["lanes", name] for name in ("data", "zero1", "fsdp", "expert", "pair", "context")}
GROUP, RECT, TEXT = (f"{{http://www.w3.org/2000/svg}}{name}" for name in ("g", "rect", "text"))


def told(*words: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["bench", *words])


@pytest.mark.parametrize("name", COMMANDS)
def test_pictures_in_the_documentation_are_what_is_drawn_now(name: str, tmp_path: Path) -> None:
    """After a change: `sapience bench schedule|lanes NAME --svg docs/pictures/NAME.svg`, with the times above."""
    told(*COMMANDS[name], "--svg", str(tmp_path / "picture.svg"))
    assert (tmp_path / "picture.svg").read_text() == (DOCS / "pictures" / f"{name}.svg").read_text()


def test_every_picture_is_shown_and_every_one_shown_is_there() -> None:
    kept = {path.stem for path in (DOCS / "pictures").glob("*.svg")}
    shown = {name for page in DOCS.glob("*.md") for name in re.findall(r"\(pictures/(\w+)\.svg\)", page.read_text())}
    assert kept == shown == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_boxes_do_not_overlap_and_nothing_is_outside_of_the_sheet(name: str) -> None:
    root = ElementTree.parse(DOCS / "pictures" / f"{name}.svg").getroot()
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    rows: dict[float, list[tuple[float, float]]] = {}
    for group in root.iter(GROUP):
        (rect,) = group.iter(RECT)
        x, y, wide, high = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x + wide <= width and y + high <= height
        rows.setdefault(y, []).append((x, x + wide))
    for boxes in rows.values():
        boxes.sort()
        assert all(end <= begin + 0.02 for (_, end), (begin, _) in pairwise(boxes))
    for words in root.iter(TEXT):
        assert float(words.attrib["y"]) <= height
        if words.attrib.get("text-anchor") != "middle":
            assert float(words.attrib["x"]) + 5 * len(words.text or "") <= width


def test_pictures_of_lanes_show_every_task_where_it_runs() -> None:
    both = [timed(each) for each in overlapped_pair(2, 1, 0.5, 1, 2, 0.75, 1.5, 0.5)]
    groups = list(ElementTree.fromstring(svg(both)).iter(GROUP))
    assert len(groups) == sum(len(timeline.lanes.tasks) for timeline in both)
    tips = [group[0].text for group in groups]
    assert tips[0] == "attention: forward, 0 to 1" and tips[-1] == "send: gradients of hidden states travel, 21.5 to 22"
    assert [group[2].text for group in groups[:3]] == ["A", "S", "experts"], "in full where there is room"


def test_lanes_as_letters_on_one_scale() -> None:
    timeline = timed(data_parallel(2, 2, 1, 2, 1, 1, 1))
    assert lines(timeline, 7, 14) == [
        "  0 arithmetic FFBBBB......OO",
        "    network    ......ggggnn..",
        "  1 arithmetic FFBBBB......OO",
        "    network    ......ggggnn..",
    ]
    assert lines(timeline, 14, 14)[0] == "  0 arithmetic FBB...O"


def test_the_command_tells_figures_and_what_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    told("lanes", "pair", "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["lanes"] == "pair" and record["ranks"] == 1 and record["time"] == 15.5
    assert record["compared"]["time"] == 22 and record["compared"]["saved"] == 6.5
    assert record["arithmetic_busy"] == record["compared"]["arithmetic_busy"] == [15]
    assert record["idle_share"] == pytest.approx(0.5 / 15.5) and record["hidden_share"] > 0.9
    told("lanes", "pair")
    assert "saved: 6.5 of 22 (30%)" in capsys.readouterr().out
    told("lanes", "zero1", "--json", "--ranks", "8")
    assert json.loads(capsys.readouterr().out)["compared"] is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["lanes", "pair", "--attention", "inf"], "attention takes inf"),
        (["lanes", "expert", *"--attention 0 --shared 0 --experts 0 --to-experts 0 --from-experts 0".split()],
         "nothing takes any time"),
        (["lanes", "data", "--ranks", "1"], "--ranks"),
        (["lanes", "expert", "--microbatches", "4"], "No such option"),
        (["schedule", "1f1b", *"--forward 0 --backward 0 --weight 0".split()], "nothing takes any time"),
        (["schedule", "1f1b", "--forward", "inf"], "a chunk takes inf: a time is a number"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_timed_is_said(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *words])
    captured = capsys.readouterr()
    assert reason in captured.out + captured.err and "Traceback" not in captured.err
