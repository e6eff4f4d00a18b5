"""Words, names and documents for the demo corpus: the raw material, no task knowledge.

Two disjoint word lists exist for every kind of word: ``TRAIN`` feeds the corpus, ``UNSEEN`` is read by the
evaluation only. A ``Source`` draws from one of them; in training it also invents *open words* from random
vocabulary pieces, because a model that has only copied words from closed lists corrects an unknown word into
a known one.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OPEN_SHARE = 0.4  # share of words invented from pieces; below ~0.3 unseen words are "corrected"

TRAIN: dict[str, list[str]] = {
    kind: words.split()
    for kind, words in {
        "first": "Anna Ben Carla David Emma Felix Greta Hugo Ines Jonas Karin Leo Maria Nils Olga Paul "
        "Rosa Sam "
        "Tina Uwe Vera Walter Yara Zeno Alice Bob Clara Daniel Elena Frank Gina Henry Iris Jack Kate "
        "Liam Mona "
        "Nora Oscar Peter Quinn Ruth Simon Tom Ursula Victor Wendy Xenia Yusuf Zoe Amir Bella Chen Diego "
        "Esther "
        "Fatima Georg Hana Ivan Julia Kofi Lena Mateo Nadia Omar Priya Ravi Sofia Tariq Uma Viktor Wei Akira "
        "Bruno Cora Dora Erik Flora Gustav Heidi Igor Jana Klaus Lucas Marta Noah Otto Pia Rita Stefan Theo",
        "last": "Smith Brown Miller Fischer Weber Keller Novak Rossi Silva Santos Garcia Lopez Kim Park "
        "Tanaka "
        "Sato Singh Patel Khan Ali Hassan Cohen Levi Ivanov Petrov Jensen Hansen Olsen Berg Lund Virtanen "
        "Kowalski Nagy Popescu Dubois Martin Bernard Moreau Leroy Jones Taylor Davies Evans Wilson Walker "
        "Wright Green Baker Clark Hill Young King Scott Adams Nelson Carter Turner Parker Collins Stewart "
        "Morris Murphy Cook Rogers Reed Bell Bailey Cooper Ward Gray Watson Brooks Wood Bennett Ross Long "
        "Foster Powell Perry Butler Barnes Fisher Graham Woods Wallace West Stone Meyer Burns Gordon Hunt",
        "city": "Paris Berlin Madrid Rome Vienna Prague Warsaw Lisbon Dublin Oslo Helsinki Athens Cairo "
        "Nairobi "
        "Lagos Tokyo Osaka Seoul Delhi Mumbai Bangkok Hanoi Sydney Perth Toronto Boston Chicago Denver "
        "Dallas "
        "Houston Lima Bogota Quito Santiago Havana Munich Hamburg Cologne Lyon Nice Milan Naples Turin "
        "Seville "
        "Porto Ghent Bruges Graz Basel Bern Zurich Geneva Krakow Gdansk Riga Vilnius Tallinn Bergen Aarhus "
        "Leeds York Bath Bristol Cardiff Glasgow Cork Galway Austin Seattle Miami Atlanta Phoenix Kyoto",
        "country": "France Germany Spain Italy Austria Poland Portugal Ireland Norway Finland Greece "
        "Egypt Kenya "
        "Japan Korea India Thailand Vietnam Australia Canada Peru Chile Cuba Mexico Brazil Ghana Sweden",
        "product": "lamp kettle chair table mug bottle backpack notebook pencil umbrella jacket sweater "
        "helmet "
        "bicycle skateboard guitar piano drum keyboard mouse monitor printer scanner router camera tripod "
        "speaker headset phone tablet charger cable battery toaster blender oven fridge freezer pan pot "
        "knife "
        "fork spoon plate bowl towel pillow blanket curtain carpet mirror clock watch ring necklace wallet "
        "belt scarf glove hat sock boot sandal tent stove lantern rope hammer saw drill ladder bucket broom",
        "color": "red blue green yellow black white brown orange purple pink grey golden silver beige",
        "material": "wood steel glass plastic cotton wool leather paper stone rubber",
        "job": "baker teacher nurse doctor farmer pilot painter plumber lawyer singer writer driver cook "
        "waiter "
        "tailor carpenter engineer chemist dentist librarian gardener mechanic barber judge sailor",
        "hobby": "chess swimming hiking painting reading cycling dancing cooking fishing sailing "
        "knitting skiing "
        "running climbing gardening photography singing pottery yoga tennis football archery",
        "fruit": "apple pear plum cherry grape banana orange lemon lime peach apricot melon mango kiwi "
        "fig date "
        "raspberry blueberry strawberry",
        "animal": "dog cat horse cow pig goat sheep rabbit mouse hamster parrot duck goose hen fox wolf "
        "bear deer "
        "lion tiger zebra camel donkey turtle frog snake lizard owl eagle swan",
        "event": "meeting workshop concert lecture party dinner conference seminar wedding picnic "
        "exhibition match "
        "race festival interview training hearing ceremony auction reading",
        "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "company": "Acme Globex Initech Umbra Vertex Nimbus Orion Polaris Quanta Solaris Tandem Apex "
        "Borealis "
        "Cascade Delta Everest Fathom Granite Horizon Ironwood",
        "food": "soup salad pizza pasta curry stew omelette risotto lasagna pie burger sandwich pancake "
        "dumpling "
        "noodle taco kebab gratin chowder ramen",
        "ingredient": "flour sugar salt butter milk egg rice beans onion garlic tomato carrot potato "
        "cheese oil "
        "pepper cream yeast honey basil spinach mushroom",
        "language": "English German French Spanish Italian Polish Czech Greek Arabic Hindi Turkish Korean",
        "genre": "fantasy history biography poetry crime travel science drama humor horror",
        "noun": "river mountain garden window silence winter summer shadow light morning secret island "
        "forest road "
        "letter voice dream storm harbor bridge kingdom journey memory stranger promise",
        "thing": "apples coins books stamps marbles pens cards shells stones tickets eggs cups stickers "
        "balls nuts",
        "quant": "Q8_0 Q6_K Q5_K_M Q4_K_M Q4_0 Q3_K_M Q2_K IQ4_XS BF16 F16",
        "code": "alpha beta gamma delta sigma omega amber coral ivory jade onyx opal pearl ruby topaz "
        "zircon cedar "
        "maple birch willow aspen comet meteor nova quasar pulsar raven falcon heron finch sparrow anchor "
        "beacon castle dagger ember flint glacier hollow inlet jungle kernel lagoon meadow nectar oasis",
    }.items()
}

UNSEEN: dict[str, list[str]] = {
    kind: words.split()
    for kind, words in {
        "first": "Ada Grace Alan Edsger Barbara Linus Margaret Dennis Katherine Donald Radia Tim Hedy "
        "Claude Joan "
        "Vint Shafi Leslie Frances Niklaus Sophie Kurt Emmy Srinivasa Marie Ludwig",
        "last": "Lovelace Hopper Turing Dijkstra Liskov Torvalds Hamilton Ritchie Johnson Knuth Perlman "
        "Lamarr "
        "Shannon Clarke Cerf Goldwasser Lamport Allen Wirth Germain Noether Ramanujan Curie Boltzmann",
        "city": "Amsterdam Florence Brighton Oxford Cambridge Zagreb Belgrade Ljubljana Marseille "
        "Valencia Edinburgh "
        "Manchester Rotterdam Antwerp Salzburg Montreal Vancouver Portland Nashville Shanghai Jakarta "
        "Manila Toulouse Bilbao",
        "country": "Slovenia Croatia Bulgaria Uruguay Ecuador Malta Morocco Ethiopia Nepal Bolivia Jamaica",
        "product": "webinar flashlight screwdriver microscope telescope trampoline saxophone wheelbarrow "
        "hammock "
        "thermostat calculator typewriter suitcase lawnmower projector dishwasher armchair bookshelf cushion "
        "candle stapler compass whistle kayak snowboard cello tambourine easel chisel tweezers",
        "color": "turquoise crimson magenta teal scarlet maroon indigo olive cyan",
        "material": "bamboo concrete velvet ceramic marble linen plywood titanium",
        "job": "astronaut architect surgeon florist jeweler beekeeper translator photographer blacksmith "
        "economist "
        "plasterer geologist",
        "hobby": "juggling origami birdwatching surfing skating calligraphy bouldering fencing kayaking",
        "fruit": "papaya guava pineapple cranberry nectarine pomegranate lychee tangerine persimmon",
        "animal": "badger giraffe kangaroo hedgehog squirrel ostrich raccoon otter ferret chinchilla walrus",
        "event": "hackathon symposium rehearsal barbecue masterclass tournament graduation vernissage "
        "webcast",
        "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "company": "Zephyr Kestrel Lumen Monolith Octant Wavelength Brightside Halcyon Juniper Pinnacle",
        "food": "moussaka paella goulash quiche strudel minestrone falafel bibimbap ratatouille",
        "ingredient": "cinnamon walnut zucchini lentils parsley saffron vinegar broccoli eggplant ginger",
        "language": "Icelandic Swahili Basque Mandarin Portuguese Estonian Welsh Catalan",
        "genre": "romance philosophy satire thriller mythology western",
        "noun": "lighthouse cathedral waterfall thunder orchard labyrinth sunrise blizzard caravan "
        "meadowland",
        "thing": "acorns buttons feathers pebbles magnets ribbons postcards crayons",
        "quant": "IQ3_M IQ2_XS Q5_0 Q4_1 MXFP4",
        "code": "walnut hazel cobalt quartz basalt tundra vortex zenith cipher goblin hatch jigsaw "
        "locket magpie "
        "nutmeg parcel rocket saddle turnip urchin velcro whisker yonder zipper",
    }.items()
}

SYLLABLES = (
    "ba be bi bo bu da de di do fa fe fi ga go ha he ka ke ki ko la le li lo lu ma me mi mo na ne ni no pa "
)
SYLLABLES += (
    "pe po ra re ri ro ru sa se si so ta te ti to va ve vi vo wa we za ze zi zo sh th ck nd st rn lt mp"
)
_SYLLABLES = SYLLABLES.split()
ACCENTED = "éèüöäñçåøßíóáłśžčğ"
SCRIPTS = ["αβγδελμπσω", "бвгджзиклмнп", "日本語中文学生水火", "ابتجدرس", "😀🚀🎉✅🔥"]


def is_seen_pair(a: int, b: int) -> bool:
    """Tell whether the operand pair {a, b} may occur in training; one pair in ten is held out everywhere."""
    low, high = min(a, b), max(a, b)
    return high < 10 or (low * 7919 + high * 104729) % 997 % 10 != 0


@dataclass(frozen=True)
class Turn:
    """One question and the answer the model is to give."""

    user: str
    answer: str


@dataclass(frozen=True)
class Doc:
    """A conversation: its task, its turns, the loss weight of its answers, a system message if any.

    ``level`` says how hard (steps of a chain, tokens to a key); ``schema`` is that of the last answer.
    """

    kind: str
    turns: tuple[Turn, ...]
    weight: float = 1.0
    system: str | None = None
    level: int = 0
    schema: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Source:
    """A seeded stream of words and numbers; ``unseen`` switches to the words kept for evaluation."""

    def __init__(self, rng: random.Random, pieces: Sequence[str] = (), unseen: bool = False) -> None:
        self.rng = rng
        self.pieces = pieces
        self.unseen = unseen
        self.open_share = OPEN_SHARE

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.random() * len(options))]

    def number(self, low: int, high: int) -> int:
        return low + int(self.rng.random() * (high - low + 1))

    def open_word(self) -> str:
        """An invented word: random vocabulary pieces, or syllables while there is no vocabulary yet."""
        parts = self.pieces if self.pieces and self.chance(0.8) else _SYLLABLES
        word = "".join(self.pick(parts) for _ in range(self.number(1, 3) if parts is self.pieces else 3))
        if self.chance(0.03):
            word += self.pick(ACCENTED) + self.pick(_SYLLABLES)
        return word if len(word) > 1 else word + self.pick(_SYLLABLES)

    def word(self, kind: str) -> str:
        """A word of a kind; open words keep the kind's capitalisation."""
        if self.unseen:
            return str(self.pick(UNSEEN[kind]))
        known = str(self.pick(TRAIN[kind]))
        if not self.chance(self.open_share):
            return known
        word = self.open_word()
        return word[0].upper() + word[1:] if known[0].isupper() else word

    def words(self, kind: str, count: int) -> list[str]:
        """``count`` different words of a kind (fewer if the kind is too small)."""
        found: dict[str, None] = {}
        for _ in range(count * 8):
            if len(found) == count:
                break
            found[self.word(kind)] = None
        return list(found)

    def name(self) -> str:
        """A person: first name, first and last name, sometimes an initial or a double name."""
        first, last = self.word("first"), self.word("last")
        roll = self.rng.random()
        if roll < 0.25:
            return first
        if roll < 0.32:
            return f"{first} {self.pick(string.ascii_uppercase)}. {last}"
        if roll < 0.37:
            return f"{first} {last}-{self.word('last')}"
        if roll < 0.40:
            return f"{self.pick(['Dr', 'Mr', 'Ms'])}. {last}"
        return f"{first} {last}"

    def title(self) -> str:
        """A book title of two to four words."""
        noun = self.word("noun").capitalize()
        other = next(word for word in iter(lambda: self.word("noun").capitalize(), "") if word != noun)
        return str(
            self.pick([f"The {noun}", f"{noun} and {other}", f"The {noun} of {self.word('city')}", f"{noun}"])
        )

    def foreign(self) -> str:
        """A few characters outside ASCII, so that byte tokens are copied too."""
        letters = self.pick(SCRIPTS)
        return "".join(self.pick(letters) for _ in range(self.number(1, 4)))


def overlap() -> dict[str, set[str]]:
    """Unseen words that training lists contain (day names are shared on purpose): must be empty."""
    seen = {word.lower() for words in TRAIN.values() for word in words}
    kinds = (kind for kind in UNSEEN if kind != "day")
    return {kind: both for kind in kinds if (both := {w for w in UNSEEN[kind] if w.lower() in seen})}
