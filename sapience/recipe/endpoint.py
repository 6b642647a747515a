"""A model behind an OpenAI-compatible address: what every section that asks one says of it."""

from pydantic import Field, PositiveFloat, PositiveInt

from sapience.recipe.section import Section


class EndpointSection(Section):
    """Where the model is and how it is asked."""

    url: str
    """Base URL, such as http://127.0.0.1:8000/v1."""
    model: str
    """Name of the model there."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if one is needed. A key never stands in a recipe."""
    temperature: float = Field(default=0.7, ge=0)
    """Of what it writes."""
    answer_tokens: PositiveInt = 512
    """Longest answer."""
    timeout: PositiveFloat = 120.0
    """Seconds to wait for one answer; it is then asked for again, three times in all."""
