"""The stage `report`: a run as one HTML page that opens offline, in light or dark, on a phone or on paper.

The page holds all it needs (styles, pictures as SVG, tables) and asks nothing of the network. It is made
from the run directory alone, so it shows whatever stages there are: a run that began with a user's own model
has fewer sections. Text from data is escaped by the template; the pictures escape their own.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from sapience.evaluation.journey_table import journey_table
from sapience.evaluation.page import PageSection
from sapience.evaluation.report_assistant import (
    assistant_section,
    behaviour_section,
    changed_section,
    side_by_side_section,
)
from sapience.evaluation.report_post_training import reinforcement_section, teachers_section
from sapience.evaluation.report_results import (
    corpus_section,
    families_section,
    journey_section,
    needles_section,
    words_section,
)
from sapience.evaluation.report_training import (
    compression_section,
    drafts_section,
    experts_section,
    learning_section,
    samples_section,
)
from sapience.evaluation.run_record import RunRecord, read_run
from sapience.evaluation.wording import duration
from sapience.recipe import Recipe, dump_recipe
from sapience.run import StageContext, write_atomically


def run_report(context: StageContext) -> dict[str, Any]:
    """Writes `report.html` into the stage's folder; figures: its size in bytes and its number of pictures."""
    with context.progress("writing the report", None):
        run = read_run(context.run)
        sections = page_sections(run, context.recipe)
        page = render_page(run, context.recipe, sections)
        write_atomically(context.folder / "report.html", page)
    return {"bytes": len(page.encode()), "pictures": sum(len(section.pictures) for section in sections)}


def page_sections(run: RunRecord, recipe: Recipe) -> list[PageSection]:
    """The sections that the run has something to show for, in reading order."""
    sections = [
        words_section(run),
        changed_section(run),
        journey_section(run, journey_table(run.folder)),
        corpus_section(run),
        learning_section(run, recipe),
        samples_section(run, recipe),
        compression_section(run),
        experts_section(run, recipe),
        drafts_section(run),
        needles_section(run),
        families_section(run),
        teachers_section(run, recipe),
        reinforcement_section(run, recipe),
        assistant_section(run),
        behaviour_section(run),
        side_by_side_section(run),
    ]
    return [section for section in sections if section is not None]


def render_page(run: RunRecord, recipe: Recipe, sections: list[PageSection]) -> str:
    """The whole page as HTML."""
    environment = Environment(
        loader=PackageLoader("sapience.evaluation", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = Markup
    packages = {name: version for m in run.manifests.values() for name, version in m.packages.items()}
    return environment.get_template("report.html.j2").render(
        title=recipe.report.title or recipe.name,
        total=duration(sum(manifest.seconds for manifest in run.manifests.values())),
        stages=len(run.manifests),
        sections=sections,
        recipe=dump_recipe(recipe),
        packages=sorted(packages.items()),
    )
