"""Recipes: every mistake is one sentence with cause and remedy; overrides reach everything; a dump loads as itself."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sapience.recipe import Recipe, UserError, dump_recipe, load_recipe
from sapience.recipe.explain import explain

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    {"type": "files", "name": "mine", "domain": "prose", "path": "texts"},
    {"type": "problems", "name": "sums", "domain": "skills", "families": {"add": 10}},
]


def load(tmp_path: Path, tree: Any, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return load_recipe(path, overrides)


def refusal(tmp_path: Path, tree: Any, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, tree, *overrides)
    message = str(caught.value)
    assert "\n" not in message and "pydantic" not in message and "Value error" not in message
    return message


@pytest.mark.parametrize(
    ("tree", "key", "hint"),
    [
        ({"pretrian": {}}, "pretrian", "did you mean pretrain?"),
        ({"pretrain": {"step": 5}}, "pretrain.step", "did you mean steps?"),
        ({"model": {"n_groups": 2}}, "model.n_groups", "did you mean n_group?"),
        ({"pretrain": {"schedule": {"peek": 1e-3}}}, "pretrain.schedule.peek", "did you mean peak?"),
        (
            {"extend": {"phases": [{"factor": 8, "steps": 1}, {"factor": 32, "stepz": 1}]}},
            "stepz",
            "did you mean steps?",
        ),
        ({"serve": {"drafts": 2}}, "serve.drafts", "did you mean draft?"),
        ({"parallel": {"zzz": 1}}, "parallel.zzz", "known keys here: pipeline"),
        ({"corpus": {"sources": [SOURCES[0] | {"langauge": "de"}]}}, "langauge", "did you mean language?"),
        ({"corpus": {"sources": [SOURCES[1] | {"famlies": {}}]}}, "famlies", "did you mean families?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    tree: dict[str, Any], key: str, hint: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, tree)
    assert key in message and hint in message and str(tmp_path) in message


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            {"n_routed_experts": 64, "n_group": 6},
            "experts 64 are not divisible by n_group 6: choose n_group from 1, 2, 4, 8",
        ),
        ({"n_group": 2, "topk_group": 3}, "topk_group 3 exceeds n_group 2: lower topk_group"),
        ({"n_routed_experts": 8, "n_group": 8, "topk_group": 2}, "groups of one expert"),
        ({"n_routed_experts": 8, "n_group": 4, "topk_group": 1, "num_experts_per_tok": 3}, "raise topk_group or lower"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok 9 exceeds the 8 experts"),
        ({"first_k_dense_replace": 5}, "first_k_dense_replace 5 exceeds num_hidden_layers 4"),
        ({"qk_rope_head_dim": 15}, "choose an even width"),
        ({"hidden_size": 0}, "model.hidden_size"),
        ({"hidden_size": "wide"}, "model.hidden_size"),
        ({"rms_norm_eps": float("nan")}, "model.rms_norm_eps"),
        ({"scoring_func": "tanh"}, "model.scoring_func"),
        ({"scoring_func": "softmax"}, "set norm_topk_prob to false"),
    ],
)
def test_impossible_sizes_are_refused_with_what_would_do(model: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, {"model": model})


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"tokenizer": {"vocab_size": 4096}}, "set model.vocab_size to 4096 or more"),
        (
            {"extend": {"phases": [{"factor": 8, "steps": 1}, {"factor": 4, "steps": 1}]}},
            "must grow from phase to phase",
        ),
        (
            {"extend": {"phases": [{"factor": 8, "steps": 1}, {"factor": 8, "steps": 1}]}},
            "must grow from phase to phase",
        ),
        ({"extend": {"phases": [{"factor": 1, "steps": 1}]}}, "from 2 on"),
        ({"extend": {"phases": []}}, "extend.phases"),
        ({"extend": {"scaling_factor": 16}}, "set it to 32 or more"),
        (
            {"corpus": {"sources": SOURCES}, "pretrain": {"mixture": {"prose": 1, "verse": 1}}},
            "verse; the corpus has prose, skills",
        ),
        (
            {"corpus": {"sources": SOURCES}, "pretrain": {"curriculum": [{"until": 0.3, "mixture": {"verse": 1}}]}},
            "verse; the corpus has prose, skills",
        ),
        (
            {"pretrain": {"curriculum": [{"until": 0.3, "mixture": {"a": 1}}, {"until": 0.2, "mixture": {"a": 2}}]}},
            "each must end after the one before",
        ),
        ({"pretrain": {"curriculum": [{"until": 0.3, "mixture": {}}]}}, "pretrain.curriculum.0.mixture"),
        ({"corpus": {"sources": [SOURCES[0], SOURCES[0]]}}, "two sources are named mine"),
        ({"corpus": {"sources": [SOURCES[0], SOURCES[1] | {"domain": "prose"}]}}, "a domain of their own"),
        ({"pretrain": {"batch": {"rows": 4, "start_rows": 8}}}, "a ramp goes up"),
        ({"pretrain": {"schedule": {"warmup": 0.9}}}, "warmup <= plateau_end"),
        ({"evaluate": {"needle_depths": [0, 1.5]}}, "between 0 (start of the text) and 1 (end)"),
        ({"stages": ["corpus", "dance"]}, "stages.1"),
        ({"stages": []}, "stages"),
        ({"name": "../elsewhere"}, "name"),
        ({"name": ".hidden"}, "name"),
        ({"seed": -1}, "seed"),
        ({"serve": {"draft": 9}}, "serve.draft"),
        ({"serve": {"draft": -1}}, "serve.draft"),
        ({"corpus": {"sources": [{"type": "feed", "name": "a", "domain": "b"}]}}, "corpus.sources.0"),
    ],
)
def test_contradictions_are_found_before_any_work(tree: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, tree)


def test_every_mistake_of_a_recipe_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"pretrain": {"steps": 0, "lenght": 5}, "seed": "x"})
    for word in ("pretrain.steps", "did you mean length?", "seed"):
        assert word in message


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe at .*nowhere.yaml.*recipes/demo.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="no recipe at"):
        load_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_recipe(tmp_path / "binary.yaml")
    assert "not valid YAML" in refusal(tmp_path, "pretrain: [1, 2\nmodel: }")
    assert "holds a list" in refusal(tmp_path, "- pretrain\n- model")
    assert "holds a str" in refusal(tmp_path, "pretrain")
    assert "pretrain" in refusal(tmp_path, "pretrain: 5")
    assert load(tmp_path, "").model == Recipe().model
    assert load(tmp_path, "# nothing but a remark\n") == Recipe()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied", "recipe.yaml")

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(UserError, match="may not be read"):
        load_recipe(tmp_path / "recipe.yaml")


def test_overrides_reach_fields_new_sections_lists_and_whole_trees(tmp_path: Path) -> None:
    tree = {"pretrain": {"steps": 5}, "extend": {"phases": [{"factor": 8, "steps": 3}, {"factor": 32, "steps": 4}]}}
    loaded = load(
        tmp_path,
        tree,
        "pretrain.steps=50",
        "seed=7",
        "pretrain.schedule.peak=3e-3",
        "model.q_lora_rank=null",
        "extend.phases.1.steps=9",
        "extend.phases.0.batch.rows=3",
        "corpus.sources=[{type: files, name: mine, domain: prose, path: texts}]",
        "corpus.sources.0.weight=2.5",
        "pretrain.sample_prompts=['a = b', 'c']",
        "report.title=Über = alles",
    )
    assert (loaded.pretrain.steps, loaded.seed, loaded.pretrain.schedule.peak) == (50, 7, 3e-3)
    assert loaded.model.q_lora_rank is None
    assert [phase.steps for phase in loaded.extend.phases] == [3, 9] and loaded.extend.phases[0].batch.rows == 3
    assert loaded.corpus.sources[0].weight == 2.5
    assert loaded.pretrain.sample_prompts == ["a = b", "c"]
    assert loaded.report.title == "Über = alles"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrain.steps", "is not of the form section.field=value"),
        ("=5", "is not of the form"),
        ("pretrain..steps=5", "is not of the form"),
        ("pretrain.steps=[1", "not valid YAML"),
        ("pretrain.steps=many", "pretrain.steps"),
        ("pretrain.stepz=5", "did you mean steps?"),
        ("pretrain.steps.more=5", "has no field of its own"),
        ("extend.phases.7.steps=5", "'7' is no index of a list of 2 entries"),
        ("extend.phases.last.steps=5", "'last' is no index of a list of 2 entries"),
        ("extend.phases.2=5", "'2' is no index of a list of 2 entries"),
        ("extend.phases.-1.steps=5", "is no index"),
        ("extend.phases.0.steps.x=1", "has no field of its own"),
        ("extend.phases.0.0=1", "extend.phases.0"),
        ("stages.0.x=1", "has no field of its own"),
        ("name=a/b", "name"),
    ],
)
def test_bad_overrides_are_named(override: str, words: str, tmp_path: Path) -> None:
    tree = {
        "pretrain": {"steps": 5},
        "stages": ["corpus"],
        "extend": {"phases": [{"factor": 8, "steps": 3}, {"factor": 32, "steps": 4}]},
    }
    assert words in refusal(tmp_path, tree, override)


def test_an_override_of_a_list_that_the_file_leaves_at_its_default(tmp_path: Path) -> None:
    """`extend.phases.0.steps=5` works whether the file spells the phases out or not."""
    loaded = load(tmp_path, {}, "extend.phases.0.steps=5")
    assert [phase.steps for phase in loaded.extend.phases] == [5, 50]
    assert "no index of a list of 2" in refusal(tmp_path, {}, "extend.phases.5.steps=5")


def test_a_dump_loads_as_itself(tmp_path: Path) -> None:
    recipe = load(tmp_path, {"corpus": {"sources": SOURCES}, "name": "one.2-b"}, "report.title=中文: ü")
    (tmp_path / "dump.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(tmp_path / "dump.yaml")
    assert again == recipe and dump_recipe(again) == dump_recipe(recipe)
    assert list(yaml.safe_load(dump_recipe(recipe))) == list(Recipe.model_fields)


@settings(max_examples=30, deadline=None)
@given(
    peak=st.floats(1e-8, 10, allow_nan=False),
    rate=st.floats(0, 0.99),
    title=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    steps=st.integers(1, 10**9),
)
@example(peak=1e-3, rate=0.9, title="#a\x85é", steps=1)
def test_every_value_survives_the_dump(peak: float, rate: float, title: str, steps: int) -> None:
    recipe = Recipe.model_validate(
        {
            "pretrain": {"steps": steps, "schedule": {"peak": peak}, "optimizer": {"beta2": rate}},
            "report": {"title": title},
        }
    )
    assert Recipe.model_validate(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_a_recipe_cannot_be_changed_once_loaded() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().pretrain.steps = 5  # type: ignore[misc]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_with_sapience_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem


def sections_below(dotted: str) -> list[tuple[str, str, str, str]]:
    rows = explain(dotted)
    return [row for one in rows for row in ([one] + (sections_below(one[0]) if one[1].startswith("section") else []))]


def test_every_field_of_a_recipe_has_a_meaning() -> None:
    rows = sections_below("")
    assert len(rows) > 100
    silent = [name for name, _, _, meaning in rows if len(meaning) < 8 and not name.endswith(".type")]
    assert not silent


def test_explaining_a_field() -> None:
    [row] = explain("pretrain.steps")
    assert row[0] == "pretrain.steps" and row[2] == "1000" and "Optimizer steps" in row[3]
    [row] = explain("serve")
    assert row[:3] == ("serve.draft", "int", "1") and "speculative decoding" in row[3] and "0: none" in row[3]
    names = [row[0] for row in explain("extend.phases")]
    assert "extend.phases.factor" in names
    for wrong in ("pretrian", "pretrain.stepz", "pretrain.steps.more"):
        with pytest.raises(UserError):
            explain(wrong)


def test_kinds_of_sources_can_be_explained() -> None:
    """`corpus.sources` is a list of several kinds; the names of all their fields are told."""
    meanings = {row[0].removeprefix("corpus.sources."): row[3] for row in explain("corpus.sources")}
    assert meanings["dataset"].startswith("(huggingface) ")
    assert meanings["families"].startswith("(problems) ")
    assert meanings["weight"].startswith("Share of")
    assert [row[0] for row in explain("corpus.sources.worked")] == ["corpus.sources.worked"]
    assert len(explain("corpus.sources.packages")) == 2


def test_a_family_of_two_experts_is_asked_by_both_their_shares() -> None:
    problems = [{"families": {"maxn": 1, "minn": 2}}, {"families": {"maxn": 3}}]
    experts = {name: {"problems": asked} for name, asked in zip(("one", "two"), problems, strict=True)}
    recipe = Recipe.model_validate({"specialise": {"experts": experts}})
    assert recipe.specialise.all_problems().families == {"maxn": 4, "minn": 2}
