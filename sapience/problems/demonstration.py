"""How an assistant answers a problem: the final answer in a box, code in a fenced block.

    18, 45, 45 \\boxed{45}

V3 rewards mathematics by "the final answer within a specified format (e.g., in a box)" (report, section 5.2.1). These are
the demonstrations; whether a text is right is for the room `rewards` to say.
"""

from sapience.problems.problem import Problem


def demonstration(problem: Problem, worked: bool) -> str:
    """The right answer as an assistant would give it; with `worked` behind its steps, where the problem has steps."""
    if problem.domain == "code" and problem.tests:
        return f"```{problem.language}\n{problem.answer}\n```"
    steps = problem.steps if worked else ""
    box = f"\\boxed{{{problem.answer}}}"
    return f"{steps} {box}" if steps else box
