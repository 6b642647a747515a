"""What becomes of each clean document: dropped as a repetition, held out, or trained on.

Repetitions go first, across all sources; what is left holds no two near duplicates, so none can stand on both sides of
the split. Held out are the documents whose content hash is smallest, up to the wanted size, of each domain on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapience.corpus.drafts import Draft
from sapience.corpus.duplicates import exact_duplicates, near_duplicates
from sapience.recipe.corpus import CorpusSection

TRAIN, HELD_OUT, EXACT, NEAR = range(4)
LARGEST_HELD_OUT = 0.1
"""Share of a domain's bytes that is held out at most, however small the domain is."""
_MIX = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Selection:
    """Fate of every document: per draft an array of TRAIN, HELD_OUT, EXACT, NEAR."""

    fates: list[NDArray[np.uint8]]


def select(drafts: Sequence[Draft], section: CorpusSection) -> Selection:
    """Decide about all documents of all drafts."""
    identities = np.concatenate([draft.identities() for draft in drafts])
    sizes = np.concatenate([draft.sizes() for draft in drafts])
    counts = [len(draft.sizes()) for draft in drafts]
    fates = np.full(len(identities), TRAIN, np.uint8)
    fates[exact_duplicates(identities)] = EXACT
    near = near_duplicates([draft.signatures() for draft in drafts], fates == TRAIN, section.near_duplicates)
    fates[near] = NEAR
    owners = np.repeat([draft.section.domain for draft in drafts], counts) if counts else np.zeros(0, str)
    for domain in sorted({draft.section.domain for draft in drafts}):
        members = np.flatnonzero((owners == domain) & (fates == TRAIN))
        chosen = held_out(identities[members], sizes[members], section.held_out_share, section.held_out_kb)
        fates[members[chosen]] = HELD_OUT
    return Selection(np.split(fates, np.cumsum(counts)[:-1]))


def held_out(
    identities: NDArray[np.uint64], sizes: NDArray[np.int64], share: float, least_kb: float
) -> NDArray[np.int64]:
    """Places of one domain's documents to hold out: by rising hash until the wanted bytes are together.

    Wanted are `share` of the bytes or `least_kb`, whichever is more, but never more than a tenth of the domain. A
    document that alone would exceed the tenth is passed over, so that a domain of two books keeps both for training.
    """
    total = int(sizes.sum())
    most = total * LARGEST_HELD_OUT
    wanted = min(max(share * total, least_kb * 1024), most)
    order = np.argsort(identities * _MIX, kind="stable")
    order = order[sizes[order] <= most]
    before = np.concatenate(([0], np.cumsum(sizes[order])[:-1]))
    return order[(before < wanted) & (before + sizes[order] <= most)]
