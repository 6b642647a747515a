"""When are two answers the same? The structure decides here; what takes algebra is asked of `same_value`.

Rules, all on the strict side, since a judge that accepts too much is learnt and used:

- A unit may be missing in the answer, but not be another one. A right answer without a unit accepts any known unit.
- Per cent is part of the number: 50% is neither 0.5 nor 50.
- Brackets and order count: (1, 2) is not (2, 1), [0, 1) is not [0, 1]. Lists, sets and unions have no order, and every
  member counts once: an answer that offers more candidates than asked for is wrong.
- `x = 5` is as good as 5, `y = 2` is not. Where the right answer names several unknowns, names may not be left out.
- An inequality in one variable is an interval, except beside a right answer in round brackets that may be a point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sapience.rewards.math_expression import Expression, names
from sapience.rewards.math_forms import Bracketed, Form, Infinity, Matrix, Named, Relation, Scalar, Several, Word

SameValue = Callable[[Expression, Expression], bool]
SameRelation = Callable[[Relation, Relation], bool]


def same(right: Form, given: Form, same_value: SameValue, same_relation: SameRelation) -> bool:
    """Whether the `given` form answers what the `right` one does; what the two callables raise comes through."""
    return _Comparison(same_value, same_relation).forms(right, given)


class _Comparison:
    def __init__(self, same_value: SameValue, same_relation: SameRelation) -> None:
        self.same_value, self.same_relation = same_value, same_relation

    def forms(self, right: Form, given: Form) -> bool:
        if isinstance(right, Named) or isinstance(given, Named):
            return self.named(right, given)
        match right, given:
            case Scalar(), Scalar():
                return self.scalars(right, given)
            case Scalar(), Relation() if given.defined and given.defined not in names(given.right):
                return not right.unit and self.same_value(right.expression, given.right)
            case Relation(), Relation():
                return right == given or (right.sign == given.sign and self.same_relation(right, given))
            case Bracketed(), Bracketed():
                brackets = (right.opening, right.closing) == (given.opening, given.closing)
                return brackets and self.in_order(right.items, given.items)
            case Several(), Several():
                return self.several(right, given)
            case Matrix(), Matrix():
                shapes = (len(right.rows), len(right.rows[0])) == (len(given.rows), len(given.rows[0]))
                rows = zip(right.rows, given.rows, strict=True) if shapes else ()
                return shapes and all(self.in_order(*pair) for pair in rows)
            case Word(), Word():
                return right.text == given.text or (len(right.text) > 1 and right.text.lower() == given.text.lower())
            case Infinity(), Infinity():
                return right.sign == given.sign
        return False

    def named(self, right: Form, given: Form) -> bool:
        if isinstance(right, Named) and isinstance(given, Named):
            return right.name == given.name and self.forms(right.form, given.form)
        if isinstance(right, Named):
            return self.forms(right.form, given)
        assert isinstance(given, Named)
        if isinstance(right, Relation) or (isinstance(given.form, Bracketed) and _may_be_point(right)):
            return "(" in given.name and isinstance(right, Bracketed) and self.forms(right, given.form)
        return self.forms(right, given.form)

    def scalars(self, right: Scalar, given: Scalar) -> bool:
        if "%" in (right.unit, given.unit):
            units = right.unit == given.unit
        else:
            units = not right.unit or not given.unit or right.unit == given.unit
        return units and self.same_value(right.expression, given.expression)

    def in_order(self, right: Sequence[Form], given: Sequence[Form]) -> bool:
        return len(right) == len(given) and all(self.forms(*pair) for pair in zip(right, given, strict=True))

    def several(self, right: Several, given: Several) -> bool:
        if "union" in (right.kind, given.kind) and right.kind != given.kind:
            return False
        if len(right.items) != len(given.items):
            return False
        right_names, given_names = _names(right), _names(given)
        if len(right_names) > 1:  # several unknowns: each value has to say whose it is
            return len(given_names) == len(right_names) and self.matched(right.items, given.items)
        if len(given_names) > 1:
            numbered = len({name.split("_")[0] for name in given_names}) == 1
            return numbered and self.matched(_values(right.items), _values(given.items))
        return self.matched(right.items, given.items)

    def matched(self, right: Sequence[Form], given: Sequence[Form]) -> bool:
        """Whether each of `right` has its own partner; being the same is transitive, so the first one found will do."""
        left = list(given)
        for item in right:
            partner = next((other for other in left if self.forms(item, other)), None)
            if partner is None:
                return False
            left.remove(partner)
        return True


def _may_be_point(form: Form) -> bool:
    """Round brackets around two numbers, neither of them infinite, are a point to one reader and an interval to another."""
    if not isinstance(form, Bracketed):
        return False
    return (form.opening, form.closing) == ("(", ")") and not any(isinstance(item, Infinity) for item in form.items)


def _names(several: Several) -> set[str]:
    return {item.name for item in several.items if isinstance(item, Named)}


def _values(items: Sequence[Form]) -> list[Form]:
    return [item.form if isinstance(item, Named) else item for item in items]
