"""Formed everyday wishes, dealt out so that no two stages ask the same: what one learned by heart tells another nothing.

The first `distill.generated` are answered in fine-tuning; the reward model's are the next, then those of reinforcement.
Which kind of answer is right is known of each: to refuse, to admit that nobody can know, or to answer.
"""

from sapience.corpus.chat import Message
from sapience.posttraining.rollouts import Prompt
from sapience.problems.everyday import Behaviour, EverydayConversation, everyday_conversations
from sapience.problems.everyday_patterns import generated_conversations
from sapience.recipe import Recipe, UserError

Conversations = tuple[EverydayConversation, ...]
_KINDS: dict[str, Behaviour] = {"refusal": "harmful", "unknown": "unanswerable"}


def learned_conversations(recipe: Recipe) -> Conversations:
    """Those that fine-tuning learns from."""
    return _formed(recipe, 0, recipe.distill.generated)


def compared_conversations(recipe: Recipe) -> Conversations:
    """Those to which the reward model's pairs are drawn."""
    return _formed(recipe, recipe.distill.generated, recipe.reward.wishes)


def asked_conversations(recipe: Recipe) -> Conversations:
    """Those that reinforcement asks, beside the openings of the conversations that come with sapience."""
    begin = recipe.distill.generated + recipe.reward.wishes
    return (*everyday_conversations(), *_formed(recipe, begin, recipe.reinforce.wishes))


def _formed(recipe: Recipe, begin: int, count: int) -> Conversations:
    """Raises UserError where so few topics do not give as many different ones."""
    try:
        return generated_conversations(begin + count, topics=recipe.distill.topics)[begin:]
    except ValueError as error:
        raise UserError(f"{error}: ask for fewer ({begin + count} in all stages), or raise distill.topics") from None


def right_kind(category: str) -> Behaviour:
    """What a wish of a category wants."""
    return _KINDS.get(category, "harmless")


def wish_prompt(conversation: EverydayConversation) -> Prompt:
    """The conversation up to the user's last turn."""
    turns = conversation.turns[:-1]
    messages = tuple(Message(role, text) for role, text in turns)  # type: ignore[arg-type]
    return Prompt(messages, conversation.category, language=conversation.language)
