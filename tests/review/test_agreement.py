"""Agreement between annotators: Cohen's and Fleiss' kappa against their formulas and a published example."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.review.records import measure_agreement

LABELS = st.sampled_from(("accept", "edit", "reject"))


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_cohens_kappa_by_its_formula(table: list[tuple[str, str]]) -> None:
    found = measure_agreement([{"ada": a, "bo": b} for a, b in table])
    observed = sum(a == b for a, b in table) / len(table)
    chance = 0.0
    for label in ("accept", "edit", "reject"):
        chance += sum(a == label for a, _ in table) / len(table) * sum(b == label for _, b in table) / len(table)
    assert (found.items, found.statistic) == (len(table), "Cohen")
    assert found.percent == pytest.approx(100 * observed)
    if chance < 1 - 1e-12:
        assert found.kappa == pytest.approx((observed - chance) / (1 - chance), abs=1e-9)
    else:
        assert found.kappa is None


@given(st.lists(st.lists(LABELS, max_size=5), min_size=1, max_size=20))
def test_fleiss_kappa_by_its_formula(table: list[list[str]]) -> None:
    people = ["ada", "bo", "陈", "di", "eve"]
    items = [dict(zip(people, labels, strict=False)) for labels in table]
    shared = [labels for labels in table if len(labels) > 1]
    found = measure_agreement(items)
    assert found.items == len(shared)
    if max(map(len, table)) < 3:
        return
    everything = [label for labels in shared for label in labels]
    chance = sum((everything.count(label) / len(everything)) ** 2 for label in set(everything))
    within = []
    for labels in shared:
        ordered = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j]
        within.append(sum(labels[i] == labels[j] for i, j in ordered) / len(ordered))
    observed = sum(within) / len(within)
    assert found.statistic == "Fleiss"
    if chance < 1 - 1e-12:
        assert found.kappa == pytest.approx((observed - chance) / (1 - chance), abs=1e-9)
    else:
        assert found.kappa is None


def test_fleiss_kappa_of_the_published_example() -> None:
    """Fleiss 1971 as worked in the literature: 10 subjects, 14 raters, 5 categories, kappa 0.210."""
    table = """0 0 0 0 14 | 0 2 6 4 2 | 0 0 3 5 6 | 0 3 9 2 0 | 2 2 8 1 1
    | 7 7 0 0 0 | 3 2 6 3 0 | 2 5 3 2 2 | 6 5 2 1 0 | 0 2 2 3 7"""
    items = []
    for row in table.split("|"):
        labels = [str(category) for category, count in enumerate(row.split()) for _ in range(int(count))]
        items.append({f"rater {n}": label for n, label in enumerate(labels)})
    assert measure_agreement(items).kappa == pytest.approx(0.210, abs=5e-4)


def test_agreement_of_nobody_and_of_one_label() -> None:
    assert measure_agreement([{"ada": "accept"}, {}]).percent is None
    always = measure_agreement([{"ada": "accept", "bo": "accept"}])
    assert (always.percent, always.kappa) == (100.0, None)
