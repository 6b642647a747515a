"""The metrics log: one record a line, torn lines left out, and a rewound log reads like that of an undisturbed run."""

from pathlib import Path

from sapience.training.metrics import MetricsLog


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(3):
        log.write("samples", {"step": step, "text": f"zeile\n{step} é 中"})
    assert log.read("samples") == [{"step": step, "text": f"zeile\n{step} é 中"} for step in range(3)]
    assert log.read("nothing") == []
    assert len((tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_separators_that_python_takes_for_line_ends_stay_in_their_record(tmp_path: Path) -> None:
    """A model may write U+2028, U+0085 or a form feed; such a sample must survive a restart."""
    log = MetricsLog(tmp_path)
    texts = ["a\u2028b", "c\x85d", "e\x0cf", "g\x1ch", "\u2029"]
    for step, text in enumerate(texts):
        log.write("samples", {"step": step, "text": text})
    assert [record["text"] for record in log.read("samples")] == texts
    log.rewind(100)
    assert [record["text"] for record in MetricsLog(tmp_path).read("samples")] == texts


def test_rewind_forgets_what_came_after_in_every_file(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(1, 7):
        log.write("metrics", {"step": step, "loss": 1.0 / step})
        log.write("loads", {"step": step, "loads": [[step]]})
    log.rewind(4)
    for name in ("metrics", "loads"):
        assert [record["step"] for record in log.read(name)] == [1, 2, 3, 4]
    log.write("metrics", {"step": 5, "loss": 0.2})
    assert [record["step"] for record in log.read("metrics")] == [1, 2, 3, 4, 5]
    log.close()


def test_a_torn_last_line_is_left_out_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write("metrics", {"step": 1})
    log.write("metrics", {"step": 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [record["step"] for record in log.read("metrics")] == [1, 2]
    log.rewind(3)
    log.write("metrics", {"step": 3})
    assert [record["step"] for record in log.read("metrics")] == [1, 2, 3]
    log.close()


def test_a_torn_line_of_another_kind_is_left_out(tmp_path: Path) -> None:
    """A cut number is valid JSON, and no record."""
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n12\n\xff\xfe\n')
    log = MetricsLog(tmp_path)
    assert log.read("metrics") == [{"step": 1}]
    log.rewind(5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
