"""Common short English words: the keys of needles and the items of puzzles, split by content hash.

Real words instead of invented syllables, because a tokenizer of a thousand entries knows many of them as one to
three tokens, and a needle's key should cost little of a short window. A fifth of the words is kept for tests, so
that a model which finds a test needle cannot have learnt its key.
"""

from __future__ import annotations

from sapience.problems.problem import content_hash

WORDS = tuple(
    """
    acid actor air alarm album angle animal apple arch arm army arrow art ash atlas aunt baby back bag ball band bank bar barn
    base basket bath beach bean bear bed bee bell belt bench bird block board boat body bone book boot border bottle bow bowl
    box boy brain branch brass bread brick bridge brother brown brush bucket bulb button cable cake camera camp candle cap car
    card care carpet cart case castle cat cave cell center chain chair chalk cheese chess chest chief child church circle city
    clay clerk clock cloth cloud coal coat code coin collar color comb cook copper copy cord cork corn corner cotton country
    cousin cover cow crown cup curtain curve dance daughter day deer desk dinner dish doctor dog doll door dot dragon drawer
    dress drum duck dust eagle ear earth east edge egg engine event eye face fact farm father feather field film finger fire
    fish flag flame floor flower fog food foot forest fork form fountain fox frame friend frog front fruit game garden gate
    ghost giant gift girl glass glove goat gold grain grass group guest guide hair hall hammer hand harbor hat head heart
    hill history hole home honey hook horn horse hospital hotel hour house ice image index ink iron island jar jewel judge
    juice key king kitchen knee knife knot lady lake lamp land leaf leg lemon letter level library light line lion list lock
    machine map market mask master match meal metal milk mill mind mirror model money moon morning mother mountain mouse mouth
    music nail name neck needle nest net night north nose note number nurse nut oak ocean office oil onion orange order oven
    owl page paint pair paper park part path pen pencil person phone piano picture pig pilot pin pipe place plan plane plant
    plate pocket point pond post pot price prince queen question rabbit radio rail rain report rice ring river road rock roof
    room root rope rose route rule sail salt sand scale school science screen sea seat seed shadow sheep shelf ship shirt shoe
    shop side sign silk silver singer sister skin sky sleep smoke snail snake snow soap sock song sound soup south space spoon
    spring square stage star state station stem step stick stone store storm story street string student sugar summer sun
    table tail teacher team tent test text thread ticket tiger time tin toe tooth top tower town toy track train tray tree
    truck tube uncle unit valley value village voice wagon wall watch water wave wax way week west wheel wind window wine
    wing winter wire wolf woman wood wool word work world worm yard year zebra zone
    """.split()
)


def _is_test_word(word: str) -> bool:
    return int(content_hash(word)[:8], 16) % 5 == 0


TRAIN_WORDS = tuple(word for word in WORDS if not _is_test_word(word))
TEST_WORDS = tuple(word for word in WORDS if _is_test_word(word))
