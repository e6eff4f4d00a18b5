"""What the demo model knows by heart: a table of facts, and questions about local inference and moetool.

The questions are in ``demo_questions.txt``. One wording in six of each fact is kept for the evaluation.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from demo_source import Doc, Source, Turn

PAIRS: dict[str, tuple[tuple[str, ...], str, str]] = {
    # relation: question wordings with {k}, the answer with {k} and {v}, the table
    "capital": (
        (
            "What is the capital of {k}?",
            "Capital of {k}?",
            "Which city is the capital of {k}?",
            "Name the capital of {k}.",
            "Tell me the capital of {k}.",
            "What's the capital of {k}?",
        ),
        "The capital of {k} is {v}.",
        "France Paris, Germany Berlin, Spain Madrid, Italy Rome, Austria Vienna, Poland Warsaw, Portugal "
        "Lisbon, "
        "Ireland Dublin, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Greece Athens, "
        "Egypt Cairo, Kenya Nairobi, Japan Tokyo, China Beijing, Thailand Bangkok, Vietnam Hanoi, Peru Lima, "
        "Chile Santiago, Cuba Havana, Canada Ottawa, Hungary Budapest, Belgium Brussels, England London, "
        "Russia Moscow, Ghana Accra, Iceland Reykjavik, Iran Tehran",
    ),
    "symbol": (
        (
            "What is the chemical symbol of {k}?",
            "Chemical symbol of {k}?",
            "Which symbol does {k} have?",
            "What is the chemical symbol for {k}?",
            "Name the chemical symbol of {k}.",
            "Symbol for {k}?",
        ),
        "The chemical symbol of {k} is {v}.",
        "hydrogen H, helium He, lithium Li, carbon C, nitrogen N, oxygen O, fluorine F, neon Ne, sodium Na, "
        "magnesium Mg, aluminium Al, silicon Si, phosphorus P, sulfur S, chlorine Cl, potassium K, "
        "calcium Ca, "
        "iron Fe, copper Cu, zinc Zn, silver Ag, tin Sn, iodine I, gold Au, mercury Hg, lead Pb, uranium U",
    ),
    "legs": (
        (
            "How many legs does a {k} have?",
            "Number of legs of a {k}?",
            "How many legs has a {k}?",
            "A {k} has how many legs?",
            "Tell me how many legs a {k} has.",
            "Legs of a {k}?",
        ),
        "A {k} has {v} legs.",
        "dog 4, cat 4, horse 4, cow 4, spider 8, bee 6, beetle 6, fly 6, duck 2, hen 2, snake 0, fish 0, "
        "crab 10, "
        "scorpion 8, butterfly 6, frog 4, human 2, penguin 2, lion 4, worm 0",
    ),
    "opposite": (
        (
            "What is the opposite of {k}?",
            "Opposite of {k}?",
            "Name the opposite of {k}.",
            "Tell me the opposite of {k}.",
            "Which word is the opposite of {k}?",
            "What's the opposite of {k}?",
        ),
        "The opposite of {k} is {v}.",
        "hot cold, big small, fast slow, up down, left right, open closed, light dark, old new, young old, "
        "happy sad, early late, full empty, hard soft, wet dry, high low, rich poor, strong weak, long "
        "short, "
        "day night, yes no, true false, loud quiet, heavy light, near far, clean dirty",
    ),
    "after": (
        (
            "What comes after {k}?",
            "Which one comes after {k}?",
            "What follows {k}?",
            "After {k} comes what?",
            "Tell me what comes after {k}.",
            "What is next after {k}?",
        ),
        "After {k} comes {v}.",
        "Monday Tuesday, Tuesday Wednesday, Wednesday Thursday, Thursday Friday, Friday Saturday, "
        "Saturday Sunday, Sunday Monday, January February, February March, March April, April May, May June, "
        "June July, July August, August September, September October, October November, November December, "
        "December January, spring summer, summer autumn, autumn winter, winter spring",
    ),
    "sound": (
        (
            "What does a {k} say?",
            "Which sound does a {k} make?",
            "What sound does a {k} make?",
            "Sound of a {k}?",
            "Tell me the sound of a {k}.",
            "How does a {k} sound?",
        ),
        "A {k} says {v}.",
        "dog woof, cat meow, cow moo, sheep baa, duck quack, pig oink, frog croak, rooster crow, mouse "
        "squeak, "
        "lion roar, bee buzz, snake hiss, horse neigh, wolf howl",
    ),
    "color": (
        (
            "What color is {k}?",
            "Which color does {k} have?",
            "What is the color of {k}?",
            "Color of {k}?",
            "Tell me the color of {k}.",
            "What colour is {k}?",
        ),
        "The color of {k} is {v}.",
        "grass green, snow white, coal black, blood red, chocolate brown, milk white, ivory white, "
        "mustard yellow, "
        "sand yellow, soot black, lavender purple, spinach green, ketchup red, butter yellow",
    ),
    "count": (
        (
            "How many {k}?",
            "Tell me how many {k}.",
            "Do you know how many {k}?",
            "Say how many {k}.",
            "Can you tell me how many {k}?",
            "How many {k}, please?",
        ),
        "There are {v} {k}.",
        "days+in+a+week 7, months+in+a+year 12, hours+in+a+day 24, minutes+in+an+hour 60, "
        "seconds+in+a+minute 60, centimeters+in+a+meter 100, sides+in+a+triangle 3, sides+in+a+square 4, "
        "letters+in+the+English+alphabet 26, grams+in+a+kilogram 1000, bits+in+a+byte 8, "
        "bytes+in+a+kibibyte 1024, "
        "players+in+a+football+team 11, strings+on+a+violin 4, planets+in+the+solar+system 8, "
        "degrees+in+a+circle 360, continents+on+Earth 7, colors+in+a+rainbow 7",
    ),
}

WRAPS = (
    "{q}",
    "{q}",
    "{q}",
    "{q}",
    "Please answer: {q}",
    "A question: {q}",
    "Tell me: {q}",
    "{q} Please explain.",
    "{q} Answer briefly.",
)
TERM_ASKS = (
    "What is {a}?",
    "What is {a}?",
    "What's {a}?",
    "Explain {a}.",
    "Define {a}.",
    "What does {t} mean?",
    "Tell me about {a}.",
    "What is meant by {t}?",
    "Can you explain {a}?",
    "What is {t}?",
)
NO_ARTICLE = (
    "llama.cpp",
    "moetool",
    "mmap",
    "attention",
    "sampling",
    "greedy",
    "quanti",
    "memory",
    "time",
    "perplexity",
    "KL",
    "temperature",
    "constrained",
    "flash",
    "grouped",
    "RoPE",
    "VRAM",
    "offload",
    "speculative",
    "local",
    "latency",
    "throughput",
    "open weights",
    "logits",
    "top-k",
    "active",
    "prompt",
    "prefill",
    "decod",
    "bandwidth",
    "TTFT",
    "ubatch",
    "GQA",
    "GGUF",
    "MoE",
    "Q",
    "F16",
    "BF16",
    "JSON",
    "LLM",
    "GBNF",
)
THE = ("router", "gating", "KV", "key-value", "context", "vocabulary", "batch")


def _with_article(term: str) -> str:
    """``a router``, ``the KV cache``, ``perplexity``: as a user would write the term in a question."""
    if term.startswith(THE):
        return f"the {term}"
    plain = term.startswith(NO_ARTICLE) and term not in (
        "GGUF file",
        "JSON schema",
        "GBNF grammar",
        "open model",
    )
    return term if plain else f"{'an' if term[0] in 'aeoAEO' else 'a'} {term}"


def _table(name: str) -> list[tuple[str, str]]:
    rows = [row.rsplit(" ", 1) for row in PAIRS[name][2].split(", ")]
    return [(key.replace("+", " "), value) for key, value in rows]


def is_held_out(text: str) -> bool:
    """Tell whether a fact in a certain wording is kept for the evaluation (one in six)."""
    return zlib.crc32(text.encode()) % 6 == 0


def _yes_no(source: Source, relation: str, key: str, value: str) -> Turn | None:
    """``Is Paris the capital of France?``"""
    wordings = {"capital": "Is {v} the capital of {k}?", "opposite": "Is {v} the opposite of {k}?"}
    if relation not in wordings:
        return None
    shown = value if source.chance(0.5) else source.pick(_table(relation))[1]
    ask = wordings[relation].replace("{k}", key).replace("{v}", shown)
    reply = PAIRS[relation][1].replace("{k}", key).replace("{v}", value)
    # The fact first: what is already written decides between yes and no more surely than what is to come.
    return Turn(ask, f"{reply} So {'yes' if shown == value else 'no'}.")


def fact(source: Source, held_out: bool = False) -> Doc:
    """A question from the fact table; ``held_out`` draws the wordings that training never sees."""
    while True:
        relation = source.pick(list(PAIRS))
        wordings, answer, _ = PAIRS[relation]
        key, value = source.pick(_table(relation))
        ask = source.pick(wordings).replace("{k}", key)
        if is_held_out(ask) == held_out:
            break
    if not held_out and source.chance(0.08) and (turn := _yes_no(source, relation, key, value)):
        return Doc("fact", (turn,))
    reply = answer.replace("{k}", key).replace("{v}", value)
    if not held_out and source.chance(0.12):
        ask, reply = f"{ask} {source.pick(['Answer in one word.', 'One word only.'])}", value
    return Doc("fact", (Turn(_noisy(source, ask), reply),), extra={"value": value})


def yes_no(source: Source) -> Doc:
    """A yes/no question about a fact."""
    relation = source.pick(["capital", "opposite"])
    turn = _yes_no(source, relation, *source.pick(_table(relation)))
    assert turn is not None
    return Doc("fact", (turn,))


def _noisy(source: Source, ask: str) -> str:
    """A question as typed in a hurry, now and then: lower case first letter, no question mark."""
    if source.unseen or not source.chance(0.12):
        return ask
    return (ask[0].lower() + ask[1:]).rstrip("?." if source.chance(0.5) else "")


def _definitions() -> list[tuple[str, tuple[str, ...]]]:
    """Answers with the questions that ask for them: definitions (asked in several ways), then the others."""
    rows: list[tuple[str, tuple[str, ...]]] = []
    for line in Path(__file__).with_name("demo_questions.txt").read_text(encoding="utf-8").splitlines():
        if " | " in line and not line.startswith("#"):
            answer, *asks = line.split(" | ")
        elif " = " in line and not line.startswith("#"):
            terms, answer = line.split(" = ", 1)
            asks = [
                ask.replace("{a}", _with_article(term)).replace("{t}", term)
                for term in terms.split("; ")
                for ask in TERM_ASKS
            ]
        else:
            continue
        rows.append((answer, tuple(asks)))
    return rows


DEFINITIONS = _definitions()


def question(source: Source, held_out: bool = False) -> Doc:
    """A question about local inference, experts or moetool, or a greeting."""
    while True:
        answer, asks = source.pick(DEFINITIONS)
        ask = source.pick(asks)
        wrap = source.pick(WRAPS) if len(ask) > 14 else "{q}"
        ask = wrap.replace("{q}", ask)
        # Only wrapped wordings are held out: each plain question is in the corpus.
        if held_out == (wrap != "{q}" and is_held_out(ask)):
            return Doc("qa", (Turn(_noisy(source, ask), answer),))
