"""What every section of a recipe is: a frozen, typed record that refuses keys it does not know."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe. Immutable, so that a fingerprint taken at the start stays true to the end."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )
