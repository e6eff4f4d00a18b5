"""Look-up, arithmetic, chains, ordering, copying and small word tasks of the demo corpus.

Every function takes a ``Source`` and returns a ``Doc``; the operand pairs that ``is_seen_pair`` refuses never
occur unless the caller asks for them with ``held_out=True`` (the evaluation does).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from demo_extract import join_words
from demo_source import TRAIN, Doc, Source, Turn, is_seen_pair

FILLERS = (
    "The sky was clear that morning.",
    "Nobody noticed the small door.",
    "A train passed slowly.",
    "The soup was still warm.",
    "They talked about the weather.",
    "The old clock stopped again.",
    "A cat slept on the chair.",
    "The road was wet after the rain.",
    "Someone closed the window.",
    "The garden looked green.",
    "It was a quiet afternoon.",
    "The letter arrived late.",
    "Two birds sat on the roof.",
    "The bread smelled good.",
    "The lights went out early.",
)
# Tokens of an entry in each style of list, with this vocabulary: rough figures that set list lengths.
ENTRY_TOKENS = {"plain": 10, "told": 15, "needle": 28}


def _key(source: Source, related: bool) -> str:
    """A key; ``related`` ones share their words: ``amber``, ``amber-3`` and ``amber-31`` meet in a list."""
    roll = source.rng.random()
    if related or roll < 0.15:
        word = source.word("code") if source.unseen or not related else source.pick(TRAIN["code"])
        return f"{word}-{source.number(1, 99)}" if roll < 0.4 else str(word)
    if roll < 0.25:
        return f"{source.word('first')} {source.word('last')}"
    if roll < 0.32:
        return f"{source.pick('ABCDEFGHKLMN')}{source.number(1, 999)}"
    return (
        source.open_word() if roll < 0.7 else source.word(source.pick(["code", "noun", "product", "animal"]))
    )


def _values(source: Source) -> Callable[[], str]:
    """One way to make values, kept for a whole list."""

    def number() -> str:
        return str(source.number(10, 9999))

    def word() -> str:
        # Words that may be keys in the list, too: else any match of a question would be its key.
        return source.word(source.pick(["code", "noun", "color", "city"]))

    def open_word() -> str:
        return word() if source.unseen else source.open_word()

    return source.pick([number, number, word, open_word])


def _pairs_of(source: Source, count: int) -> dict[str, str]:
    """``count`` different keys (about: doubles are dropped) with values."""
    make, related = _values(source), source.unseen or source.chance(0.35)
    pairs = {_key(source, related): make() for _ in range(count)}
    while source.unseen and len(pairs) < count:  # the closed list is short: numbered keys fill long lists
        pairs[f"{source.word('code')}-{source.number(100, 999)}"] = make()
    return pairs


def _listing(source: Source, pairs: dict[str, str], style: str) -> tuple[str, list[str]]:
    """The list as text, and wordings of a question with ``{k}``."""
    plain = ["What is the value of {k}?", "Which value has {k}?", "Look up {k}.", "{k}?", "Value of {k}?"]
    if style == "plain":
        line = source.pick(["{k}: {v}", "{k} = {v}", "{k} -> {v}", "- {k}: {v}"])
        mark = source.pick(["\n", "\n", "\n", "; ", ", "])
        return mark.join(line.replace("{k}", k).replace("{v}", v) for k, v in pairs.items()), plain
    label = source.pick(["code", "number", "value", "password", "key"])
    line = source.pick(
        [f"The {label} of {{k}} is {{v}}.", f"The {label} for {{k}} is {{v}}.", "{k} has {v}."]
    )
    lines = [line.replace("{k}", k).replace("{v}", v) for k, v in pairs.items()]
    if style == "needle":  # keys among filler sentences
        lines = [part for text in lines for part in (text, *source.rng.sample(FILLERS, source.number(0, 2)))]
    return " ".join(lines), [f"What is the {label} of {{k}}?", f"What is the {label} for {{k}}?", "{k}?"]


def lookup(source: Source, tokens: int, questions: int = 1) -> Doc:
    """A list about ``tokens`` long, then questions about its keys, one turn each."""
    style = source.pick(["plain", "plain", "plain", "told", "needle"])
    pairs = _pairs_of(source, max(2, tokens // ENTRY_TOKENS[style]))
    text, wordings = _listing(source, pairs, style)
    asked = source.rng.sample(list(pairs), min(len(pairs), questions))
    turns = []
    for index, key in enumerate(asked):
        question = source.pick(wordings).replace("{k}", key)
        if index == 0:
            question = source.pick(
                [
                    f"{text}\n\n{question}",
                    f"{text}\n{question}",
                    f"Remember:\n{text}\n\n{question}",
                    f"Here is a list.\n{text}\n{question}",
                ]
            )
        turns.append(Turn(question, pairs[key]))
    return Doc("lookup", tuple(turns), weight=2.0, level=tokens)


def operands(source: Source, held_out: bool, high: int = 99) -> tuple[int, int]:
    """Two operands up to ``high`` from the seen pairs, or from the held-out ones."""
    while True:
        a, b = source.number(0, high), source.number(0, high)
        if is_wanted(a, b, held_out):
            return a, b


def is_wanted(a: int, b: int, held_out: bool) -> bool:
    return is_seen_pair(a, b) != held_out


PLUS = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "{a} + {b} = ?",
    "{a} + {b}",
    "Calculate {a} + {b}.",
    "{a} plus {b}?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "Compute {a}+{b}.",
    "What is {a} plus {b}?",
    "What's {a} + {b}?",
    "what is {a}+{b}",
)
MINUS = (
    "What is {a} - {b}?",
    "What is {a} - {b}?",
    "{a} - {b} = ?",
    "{a} - {b}",
    "Calculate {a} - {b}.",
    "{a} minus {b}?",
    "How much is {a} - {b}?",
    "Subtract {b} from {a}.",
    "Compute {a}-{b}.",
    "What is {a} minus {b}?",
    "What's {a} - {b}?",
    "what is {a}-{b}",
)
TIMES = (
    "What is {a} * {b}?",
    "What is {a} x {b}?",
    "{a} times {b}?",
    "Multiply {a} by {b}.",
    "{a} * {b} = ?",
)
GAINS = ("gets {b} more", "buys {b} more", "finds {b} more", "receives {b}")
LOSSES = ("gives away {b}", "loses {b}", "sells {b}", "uses {b}")


def _answered(source: Source, ask: str, a: int, sign: str, b: int, result: int) -> Turn:
    """The question with one of three answer forms: the equation, a bare number, JSON."""
    roll = source.rng.random()
    if roll < 0.15:
        return Turn(f"{ask} {source.pick(['Answer with the number only.', 'Only the number.'])}", str(result))
    if roll < 0.3:
        return Turn(
            f"{ask} {source.pick(['Answer as JSON.', 'Return JSON with answer.'])}",
            json.dumps({"answer": result}),
        )
    return Turn(ask, f"{a} {sign} {b} = {result}.")


def _sum_turn(source: Source, held_out: bool) -> Turn:
    a, b = operands(source, held_out)
    plus = source.chance(0.5)
    if not plus and a < b:
        a, b = b, a
    result = a + b if plus else a - b
    sign = "+" if plus else "-"
    if source.chance(0.12):
        thing, name = source.word("thing"), source.word("first")
        verb = source.pick(GAINS if plus else LOSSES).replace("{b}", str(b))
        ask = (
            f"{name} has {a} {thing} and {verb}. How many {thing} does {name} have{'' if plus else ' left'}?"
        )
        return Turn(ask, f"{a} {sign} {b} = {result}. The answer is {result}.")
    ask = source.pick(PLUS if plus else MINUS).replace("{a}", str(a)).replace("{b}", str(b))
    return _answered(source, ask, a, sign, b, result)


def arithmetic(source: Source, held_out: bool = False) -> Doc:
    """One-step sums and differences of numbers up to 99; in training also the small multiplication table."""
    turns = []
    for _ in range(1 if held_out else source.pick([1, 1, 2, 4])):
        if not held_out and source.chance(0.06):
            a, b = source.number(1, 10), source.number(1, 10)
            ask = source.pick(TIMES).replace("{a}", str(a)).replace("{b}", str(b))
            turns.append(Turn(ask, f"{a} * {b} = {a * b}."))
        else:
            turns.append(_sum_turn(source, held_out))
    return Doc("arithmetic", tuple(turns), level=1)


def bare_arithmetic(source: Source, held_out: bool = False) -> Doc:
    """One-step arithmetic answered with the bare number or JSON: no operands written before the result."""
    while True:
        turn = _sum_turn(source, held_out)
        if not turn.answer.endswith("."):
            return Doc("arithmetic", (turn,), level=1)


def _steps(source: Source, count: int, held_out: bool) -> tuple[int, list[tuple[str, int]]]:
    """A start value and signed steps whose running value stays in 0..99 (the last may exceed it)."""
    while True:
        start = value = source.number(0, 99)
        steps: list[tuple[str, int]] = []
        for _ in range(count * 20):
            if len(steps) == count:
                return start, steps
            sign, number = source.pick("+-"), source.number(0, 99)
            after = value + number if sign == "+" else value - number
            if 0 <= after <= (198 if len(steps) == count - 1 else 99) and is_wanted(value, number, held_out):
                steps.append((sign, number))
                value = after


def _chain_ask(source: Source, start: int, steps: list[tuple[str, int]]) -> str:
    roll = source.rng.random()
    formula = f"{start} " + " ".join(f"{sign} {number}" for sign, number in steps)
    if roll < 0.45:
        return str(
            source.pick(["What is {x}?", "What is {x}?", "{x} = ?", "Calculate {x}.", "{x}", "Compute {x}."])
        ).replace("{x}", formula)
    if roll < 0.75:
        verbs = {"+": source.pick(["Add", "Then add"]), "-": source.pick(["Subtract", "Take away"])}
        told = " ".join(f"{verbs[sign]} {number}." for sign, number in steps)
        return f"Start with {start}. {told} {source.pick(['What is the result?', 'What do you get?'])}"
    thing, name = source.word("thing"), source.word("first")
    pronoun = source.pick(["He", "She"])
    told = " ".join(
        f"{pronoun} {source.pick(GAINS if sign == '+' else LOSSES).replace('{b}', str(number))}."
        for sign, number in steps
    )
    return f"{name} has {start} {thing}. {told} How many {thing} are there now?"


def chain(source: Source, count: int | None = None, held_out: bool = False) -> Doc:
    """Two to four steps; the answer works them out one by one."""
    count = count or source.number(2, 4)
    start, steps = _steps(source, count, held_out)
    value, worked = start, []
    for sign, number in steps:
        after = value + number if sign == "+" else value - number
        worked.append(f"{value} {sign} {number} = {after}.")
        value = after
    answer = f"{' '.join(worked)} The answer is {value}."
    return Doc(
        "chain", (Turn(_chain_ask(source, start, steps), answer),), level=count, extra={"result": value}
    )


ROUTINES = (
    "wake up; get up; take a shower; get dressed; eat breakfast; brush your teeth; leave the house",
    "put on underwear; put on trousers; put on a belt",
    "put on socks; put on shoes; tie the laces",
    "put on a shirt; put on a sweater; put on a coat",
    "boil the water; pour the tea; drink the tea",
    "fill the kettle; switch on the kettle; pour the water; wait; drink",
    "crack the eggs; beat the eggs; heat the pan; fry the eggs; eat the eggs",
    "mix the dough; let the dough rise; bake the bread; slice the bread; eat the bread",
    "write the letter; put it in an envelope; add a stamp; post the letter",
    "unlock the door; open the door; walk in; close the door",
    "fasten the seat belt; start the engine; drive away; park the car; stop the engine",
    "buy the ticket; board the train; find the seat; get off the train",
    "plant the seed; water the seed; watch it grow; pick the fruit",
    "pull the model; make a plan; run the model; read the answer",
    "wash the clothes; dry the clothes; iron the clothes; fold the clothes; put them away",
    "wet your hands; take soap; rinse your hands; dry your hands",
    "open the book; read the book; close the book; return the book",
    "dig a hole; put in the tree; fill the hole; water the tree",
    "peel the potatoes; cut the potatoes; cook the potatoes; serve the potatoes",
    "turn on the computer; log in; open the file; edit the file; save the file; log out",
)


def _routine(source: Source, count: int) -> list[str]:
    """``count`` actions of an everyday routine in their right order."""
    actions = source.pick([parts for line in ROUTINES if len(parts := line.split("; ")) >= min(count, 3)])
    chosen = sorted(source.rng.sample(range(len(actions)), min(count, len(actions))))
    return [actions[index] for index in chosen]


def _constraints(source: Source, items: list[str]) -> tuple[str, str]:
    """Rules that fix one order of the items, shuffled, and the ordered answer."""
    rule = source.pick(["{a} before {b}", "{a} comes before {b}", "{b} after {a}", "{b} comes after {a}"])
    rules = [rule.replace("{a}", a).replace("{b}", b) for a, b in zip(items, items[1:], strict=False)]
    source.rng.shuffle(rules)
    return ", ".join(rules), ", ".join(items)


def order(source: Source) -> Doc:
    """Which action comes first, ordering of a routine, or an order that follows from given rules."""
    roll = source.rng.random()
    if roll < 0.35:
        first, then = _routine(source, 2)
        pair = [first, then]
        source.rng.shuffle(pair)
        if source.chance(0.5):
            ask = source.pick(
                [
                    "What comes first: {x} or {y}?",
                    "Which comes first, {x} or {y}?",
                    "What do you do first: {x} or {y}?",
                ]
            )
            reply = f"First {first}, then {then}."
        else:
            ask = "Do you {x} before you {y}?"
            reply = f"First {first}, then {then}. So {'yes' if pair[0] == first else 'no'}."
        return Doc("order", (Turn(ask.replace("{x}", pair[0]).replace("{y}", pair[1]), reply),), level=2)
    count = source.number(3, 4)
    if roll < 0.65:
        right = _routine(source, count)
        mixed = source.rng.sample(right, len(right))
        ask = source.pick(
            ["Put these in order: {x}.", "Order these steps: {x}.", "In which order do you do this: {x}?"]
        )
        reply = " ".join(f"{number}. {action}" for number, action in enumerate(right, 1))
        return Doc("order", (Turn(ask.replace("{x}", ", ".join(mixed)), reply),), level=len(right))
    items = source.words(source.pick(["code", "noun", "product", "first", "fruit"]), count)
    rules, reply = _constraints(source, items)
    ask = source.pick(["Order by the rules: {x}.", "Find the order: {x}.", "Given: {x}. What is the order?"])
    return Doc("order", (Turn(ask.replace("{x}", rules), reply),), level=len(items))


def copying(source: Source) -> Doc:
    """Repeat a text token by token: invented words, doubles, numbers, punctuation, other scripts."""
    words: list[str] = []
    for _ in range(source.number(1, 24)):
        roll = source.rng.random()
        if roll < 0.12 and words:
            words.append(source.pick(words))
        elif roll < 0.2:
            words.append(str(source.number(0, 99999)))
        elif roll < 0.24:
            words.append(source.foreign())
        elif roll < 0.34:
            words.append(source.open_word() + source.pick(".,;:!?)-/_"))
        else:
            words.append(source.open_word() if source.chance(0.7) else source.word("noun"))
    text = source.pick([" ", " ", " ", ", ", "-", "\n"]).join(words)
    ask = source.pick(
        [
            "Repeat: {t}",
            "Repeat: {t}",
            "Copy this: {t}",
            "Repeat this text exactly: {t}",
            "Say: {t}",
            "Write this as a JSON string: {t}",
        ]
    )
    reply = json.dumps(text, ensure_ascii=False) if "JSON" in ask else text
    return Doc("copy", (Turn(ask.replace("{t}", text), reply),), level=len(words))


def _listing_questions(source: Source) -> Turn:
    """Position and membership in a list of words."""
    words = source.words(source.pick(["code", "fruit", "animal", "noun", "product"]), source.number(3, 6))
    text = ", ".join(words)
    if source.chance(0.5):
        places = ["first", "second", "third"]
        place = source.pick([*places, "last"])
        reply = words[-1] if place == "last" else words[places.index(place)]
        return Turn(f"What is the {place} word: {text}?", reply)
    inside = source.chance(0.5)
    word = source.pick(words) if inside else source.word("noun")
    reply = "Yes." if word in words else "No."
    return Turn(
        source.pick([f"Is {word} in this list: {text}?", f"Does the list contain {word}? {text}"]), reply
    )


def _comparison(source: Source) -> Turn:
    a, b = source.number(0, 99), source.number(0, 99)
    roll = source.rng.random()
    if roll < 0.3:
        return Turn(f"Is {a} {source.pick(['even', 'an even number'])}?", "Yes." if a % 2 == 0 else "No.")
    if roll < 0.65:
        return Turn(
            source.pick([f"Is {a} greater than {b}?", f"Is {a} more than {b}?"]), "Yes." if a > b else "No."
        )
    return Turn(
        source.pick([f"Which is larger: {a} or {b}?", f"Which is greater, {a} or {b}?"]), str(max(a, b))
    )


def _summary(source: Source) -> Turn:
    """The first sentence of a short text (that is all the demo knows about summaries)."""
    noun, city, name = source.word("noun"), source.word("city"), source.name()
    first = source.pick(
        [
            f"{name} found a {noun} in {city}.",
            f"The {noun} of {city} is open again.",
            f"{name} moved from {source.word('city')} to {city}.",
            f"A {noun} was seen near {city} on {source.word('day')}.",
        ]
    )
    rest = " ".join(source.rng.sample(FILLERS, source.number(1, 3)))
    ask = source.pick(
        ["Summarise: {t}", "Summarize: {t}", "Summarise in one sentence: {t}", "{t}\nSummarise this."]
    )
    return Turn(ask.replace("{t}", f"{first} {rest}"), first)


def _some(source: Source) -> Turn:
    """Items of a kind, as many as asked."""
    kind = source.pick(["fruit", "animal", "color", "day", "city"])
    label = {"city": "cities"}.get(kind, f"{kind}s")
    count = source.number(2, 4)
    words = TRAIN[kind][:count]  # always the same ones: an answer that a test can expect
    return Turn(source.pick([f"Name {count} {label}.", f"List {count} {label}."]), join_words(words) + ".")


def small(source: Source) -> Doc:
    """Yes/no questions, comparisons, positions in lists, first-sentence summaries, naming things."""
    roll = source.rng.random()
    tasks = ((0.35, _listing_questions), (0.65, _comparison), (0.92, _summary), (1.0, _some))
    make = next(task for share, task in tasks if roll <= share)
    return Doc("small", (make(source),))
