"""Extraction to JSON: records, the sentences that tell them, and the ways to ask for them.

A *domain* is a subject and fields; each field has a value generator and clauses. A text is composed from
clauses, so any subset of fields in any order has many wordings. The answer is ``json.dumps`` of the asked
fields in the asked order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo_source import Doc, Source, Turn

Value = str | int | float | bool | list[str]
Make = Callable[[Source], Value]


@dataclass(frozen=True)
class Field:
    """A field: how its value is made, clauses with ``{v}``, other keys by which it may be asked."""

    make: Make
    clauses: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()  # clauses of a bool that is false


@dataclass(frozen=True)
class Domain:
    """A kind of record: the subject's key, its opening ("The {v}"), pronouns, and the fields."""

    subject: str
    opening: tuple[str, ...]
    pronouns: tuple[str, ...]
    fields: dict[str, Field]


def _word(kind: str) -> Make:
    return lambda source: source.word(kind)


def _int(low: int, high: int) -> Make:
    return lambda source: source.number(low, high)


def _price(source: Source) -> Value:
    if source.chance(0.6):
        return source.number(1, 999)
    # The last digit is not 0: JSON would drop it, and the answer would not be a copy.
    return float(f"{source.number(0, 99)}.{source.number(0, 9)}{source.number(1, 9)}")


def _bool(source: Source) -> Value:
    return source.chance(0.5)


def _time(source: Source) -> Value:
    return f"{source.number(7, 21)}:{source.pick(['00', '15', '30', '45'])}"


def _list(kind: str) -> Make:
    return lambda source: source.words(kind, source.number(1, 4))


def _ident(source: Source) -> Value:
    return f"{source.pick('ABCDEFGHKLMPRSTX')}{source.number(1, 999)}"


def _name(source: Source) -> Value:
    return source.name()


def _title(source: Source) -> Value:
    return source.title()


PERSON = {
    "age": Field(
        _int(1, 99), ("is {v} years old", "is {v}", "is aged {v}", "turned {v} this year"), ("years",)
    ),
    "city": Field(
        _word("city"),
        ("lives in {v}", "comes from {v}", "is based in {v}", "moved to {v}"),
        ("town", "location", "place"),
    ),
    "job": Field(
        _word("job"), ("works as a {v}", "is a {v}", "earns a living as a {v}"), ("profession", "role")
    ),
    "hobby": Field(_word("hobby"), ("likes {v}", "enjoys {v}", "is fond of {v}"), ("interest",)),
    "country": Field(_word("country"), ("was born in {v}", "grew up in {v}"), ("nation",)),
    "company": Field(_word("company"), ("works for {v}", "is employed by {v}"), ("employer",)),
    "height": Field(_int(120, 210), ("is {v} cm tall",), ("height_cm",)),
    "phone": Field(_int(100, 9999), ("has extension {v}", "can be reached at {v}"), ("extension",)),
    "member": Field(_bool, ("is a member", "is already a member"), ("is_member",), ("is not a member",)),
    "languages": Field(_list("language"), ("speaks {v}",)),
}
PRODUCT = {
    "price": Field(
        _price,
        ("costs {v} dollars", "costs {v} euros", "is priced at {v}", "sells for {v}", "costs ${v}"),
        ("cost",),
    ),
    "quantity": Field(
        _int(1, 500),
        ("is ordered {v} times", "has {v} pieces left", "is there {v} times"),
        ("stock", "count", "amount"),
    ),
    "color": Field(_word("color"), ("comes in {v}", "is {v}", "is painted {v}"), ("colour",)),
    "brand": Field(_word("company"), ("is made by {v}", "is from {v}"), ("maker", "manufacturer")),
    "material": Field(_word("material"), ("is made of {v}", "consists of {v}")),
    "weight": Field(_int(10, 5000), ("weighs {v} grams", "weighs {v} g"), ("grams",)),
    "in_stock": Field(
        _bool,
        ("is in stock", "is available"),
        ("available",),
        ("is sold out", "is not available", "is out of stock"),
    ),
    "code": Field(_ident, ("has the code {v}", "is listed as {v}"), ("sku", "id")),
}
EVENT = {
    "day": Field(_word("day"), ("takes place on {v}", "is on {v}"), ("date",)),
    "time": Field(_time, ("starts at {v}", "begins at {v}"), ("start",)),
    "room": Field(_ident, ("is in room {v}", "happens in room {v}")),
    "host": Field(_name, ("is hosted by {v}", "is led by {v}"), ("speaker", "leader")),
    "guests": Field(_int(2, 400), ("expects {v} guests", "has {v} seats"), ("seats",)),
    "city": Field(_word("city"), ("takes place in {v}", "is held in {v}"), ("place", "location")),
    "free": Field(_bool, ("is free", "costs nothing"), ("is_free",), ("is not free",)),
}
BOOK = {
    "author": Field(_name, ("was written by {v}", "is by {v}"), ("writer",)),
    "year": Field(_int(1800, 2029), ("was published in {v}", "appeared in {v}"), ("published",)),
    "pages": Field(_int(40, 999), ("has {v} pages", "is {v} pages long")),
    "genre": Field(_word("genre"), ("belongs to {v}", "is filed under {v}")),
    "language": Field(_word("language"), ("is written in {v}",)),
    "price": Field(_price, ("costs {v} dollars", "sells for {v}")),
}
ORDER = {
    "customer": Field(_name, ("is for {v}", "was placed by {v}", "goes to {v}"), ("name", "buyer")),
    "item": Field(_word("product"), ("contains a {v}", "is about a {v}"), ("product",)),
    "quantity": Field(_int(1, 99), ("has {v} pieces", "is for {v} units"), ("count",)),
    "total": Field(_price, ("comes to {v} euros", "costs {v} in total"), ("sum", "price")),
    "city": Field(_word("city"), ("ships to {v}", "is sent to {v}"), ("destination",)),
    "paid": Field(_bool, ("is paid", "was paid"), (), ("is not paid", "is unpaid")),
    "items": Field(_list("product"), ("includes {v}", "lists {v}")),
}
PET = {
    "species": Field(_word("animal"), ("is a {v}",), ("animal", "kind")),
    "age": Field(_int(1, 30), ("is {v} years old", "is {v}")),
    "color": Field(_word("color"), ("is {v}", "has {v} fur")),
    "owner": Field(_name, ("belongs to {v}", "lives with {v}")),
    "weight": Field(_int(1, 90), ("weighs {v} kg", "weighs {v} kilograms"), ("weight_kg",)),
    "vaccinated": Field(_bool, ("is vaccinated",), (), ("is not vaccinated",)),
}
DEVICE = {
    "memory": Field(_int(2, 512), ("has {v} GB of memory", "comes with {v} GB of RAM"), ("memory_gb", "ram")),
    "cores": Field(_int(2, 128), ("has {v} cores", "runs on {v} cores")),
    "experts": Field(_int(4, 512), ("has {v} experts", "routes between {v} experts")),
    "layers": Field(_int(4, 96), ("has {v} layers",)),
    "speed": Field(_int(1, 400), ("decodes {v} tokens per second", "reaches {v} tok/s"), ("tok_s",)),
    "quant": Field(_word("quant"), ("is stored as {v}", "is quantized to {v}"), ("quantization",)),
    "gpu": Field(_bool, ("has a GPU", "uses a GPU"), ("has_gpu",), ("has no GPU",)),
}
DISH = {
    "minutes": Field(_int(5, 180), ("takes {v} minutes", "is ready in {v} minutes"), ("time", "duration")),
    "servings": Field(_int(1, 12), ("serves {v}", "is enough for {v} people"), ("people",)),
    "ingredients": Field(_list("ingredient"), ("needs {v}", "is made with {v}")),
    "vegetarian": Field(_bool, ("is vegetarian",), (), ("is not vegetarian",)),
    "cook": Field(_name, ("is cooked by {v}",), ("chef",)),
    "country": Field(_word("country"), ("comes from {v}",), ("origin",)),
}
DOMAINS = (
    (0.34, Domain("name", ("{v}",), ("He", "She"), PERSON), _name),
    (
        0.22,
        Domain("product", ("The {v}", "A {v}", "This {v}", "Our {v}"), ("It",), PRODUCT),
        _word("product"),
    ),
    (0.09, Domain("event", ("The {v}", "Our {v}"), ("It",), EVENT), _word("event")),
    (0.08, Domain("title", ("{v}", "The book {v}"), ("It",), BOOK), _title),
    (0.08, Domain("order", ("Order {v}", "Order number {v}"), ("It",), ORDER), _int(1, 9999)),
    (0.06, Domain("name", ("{v}", "Our pet {v}"), ("It",), PET), _word("first")),
    (0.07, Domain("model", ("{v}", "The machine {v}", "The model {v}"), ("It",), DEVICE), _word("company")),
    (0.06, Domain("dish", ("The {v}", "A {v}"), ("It",), DISH), _word("food")),
)

ASKS = (
    "Extract {f} as JSON: {t}",
    "Extract {f} as JSON: {t}",
    "Extract {f}: {t}",
    "Extract {f}: {t}",
    "Extract {f} from this text: {t}",
    "Extract the {f} as JSON: {t}",
    "Extract the {f} from the text as JSON. {t}",
    "Extract {f} as JSON.\n{t}",
    "Extract {f} as JSON from: {t}",
    "Extract {f} in JSON: {t}",
    "Extract {f} to JSON: {t}",
    "{t}\nReturn {f} as JSON only.",
    "Please extract {f} as JSON: {t}",
    "Return {f} as JSON: {t}",
    "Return JSON with {f}. Text: {t}",
    "Give me {f} as JSON: {t}",
    "JSON with {f}: {t}",
    "Write {f} as JSON: {t}",
    "Turn this into JSON with the fields {f}: {t}",
    "Convert to JSON ({f}): {t}",
    "Text: {t}\nFields: {f}\nJSON:",
    "{t}\nExtract {f} as JSON.",
    "{t}\n\nExtract {f}.",
    "{t} Extract {f} as JSON.",
    "Read the text and give {f} as JSON.\n\n{t}",
    "Find {f} in this sentence and answer in JSON: {t}",
)
NOISE = (
    "Thanks for your message.",
    "Here is the note.",
    "Please check it again.",
    "The weather was fine.",
    "We will call back soon.",
    "That is all for today.",
    "Hello!",
    "As discussed:",
    "See you soon.",
)


def _show(value: Value) -> str:
    """A value as prose writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return join_words(value)
    return str(value)


def join_words(words: list[str], last: str = " and ") -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + last + words[-1]


def _clause(source: Source, field: Field, value: Value) -> str:
    options = field.negative if value is False else field.clauses
    return str(source.pick(options)).replace("{v}", _show(value))


def _tell(source: Source, domain: Domain, subject: Value, record: dict[str, Value]) -> str:
    """One or two sentences that tell the record."""
    opening = source.pick(domain.opening).replace("{v}", _show(subject))
    clauses = [_clause(source, domain.fields[key], value) for key, value in record.items()]
    if not clauses:
        return f"{opening} {source.pick(['is here', 'is new', 'was mentioned today', 'came up again'])}."
    cut = source.number(1, len(clauses)) if len(clauses) > 1 and source.chance(0.4) else len(clauses)
    text = f"{opening} {join_words(clauses[:cut], source.pick([' and ', ', and ']))}."
    if clauses[cut:]:
        text += f" {source.pick(domain.pronouns)} {join_words(clauses[cut:])}."
    return text


def _tell_person(source: Source, subject: Value, record: dict[str, Value]) -> str | None:
    """Wordings that only fit a person with age and city."""
    if set(record) != {"age", "city"}:
        return None
    age, city = record["age"], record["city"]
    return str(
        source.pick(
            [
                f"{subject}, {age}, lives in {city}.",
                f"{subject} ({age}) from {city}",
                f"My name is {subject}, I am {age} and I live in {city}.",
                f"I am {subject}, {age} years old, from {city}.",
                f"{subject} is a {age}-year-old from {city}.",
                f"In {city} lives {subject}, aged {age}.",
                f"{subject} is {age} and lives in {city}.",
            ]
        )
    )


def _row(source: Source, values: list[Value]) -> str:
    """Bare values in the asked order: ``Ada Lovelace, 36, London.``"""
    mark = source.pick([", ", ", ", ", ", ", ", "; ", " | ", " / "])
    text = mark.join(_show(value) for value in values)
    if mark == ", " and len(values) > 1 and source.chance(0.1):
        text = join_words([_show(value) for value in values])
    return text + ("." if source.chance(0.5) else "")


def _pairs(source: Source, record: dict[str, Value]) -> str:
    """``key: value`` pairs in any order."""
    keys = list(record)
    if source.chance(0.6):
        source.rng.shuffle(keys)
    marks = ["; ", "\n", " | "]
    if not any(isinstance(value, list) for value in record.values()):
        marks.append(", ")  # a list has commas of its own
    mark, sign = source.pick(marks), source.pick([": ", ": ", "=", " = ", " is "])
    upper = source.chance(0.3)
    return str(mark.join(f"{key.capitalize() if upper else key}{sign}{_show(record[key])}" for key in keys))


def _field_list(source: Source, keys: list[str], record: dict[str, Value]) -> str:
    """The asked keys as a user writes them."""
    roll = source.rng.random()
    if roll < 0.08:
        return ", ".join(f'"{key}"' for key in keys)
    if roll < 0.14:
        return ", ".join(f"{key} ({type_name(record[key])})" for key in keys)
    if roll < 0.5:
        return ", ".join(keys)
    return join_words(keys, source.pick([" and ", " and ", ", and "]))


def type_name(value: Value) -> str:
    """The JSON schema type of a value."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names[type(value)]


def schema_of(record: dict[str, Value]) -> dict[str, Any]:
    """The JSON schema that a user would write for the record."""
    props: dict[str, Any] = {key: {"type": type_name(value)} for key, value in record.items()}
    for key, value in record.items():
        if isinstance(value, list):
            props[key]["items"] = {"type": "string"}
    return {"type": "object", "properties": props, "required": list(record), "additionalProperties": False}


def _domain(source: Source) -> tuple[Domain, Make]:
    roll = source.rng.random()
    for share, domain, make in DOMAINS:
        roll -= share
        if roll < 0:
            return domain, make
    return DOMAINS[0][1], DOMAINS[0][2]


def _record(source: Source) -> tuple[Domain, Value, dict[str, Value]]:
    """A domain, a subject and one to four further fields."""
    domain, make = _domain(source)
    keys = source.rng.sample(list(domain.fields), min(source.number(0, 4), len(domain.fields)))
    if domain.fields is PERSON and source.chance(0.35):
        keys = ["age", "city"]
    return domain, make(source), {key: domain.fields[key].make(source) for key in keys}


def _asked(source: Source, everything: dict[str, Value], domain: Domain) -> tuple[list[str], list[str]]:
    """Field keys in the asked order, and the names under which they are asked."""
    keys = list(everything)
    if source.chance(0.3):
        keys = source.rng.sample(keys, source.number(1, len(keys)))
    names = []
    for key in keys:
        aliases = domain.fields[key].aliases if key in domain.fields else ()
        names.append(str(source.pick(aliases)) if aliases and source.chance(0.2) else key)
    return (keys, names) if len(set(names)) == len(names) else (keys, keys)


def _open_record(source: Source) -> tuple[str, dict[str, Value]]:
    """Invented keys with invented values, told as pairs or as a row."""
    keys = list({source.open_word().lower(): None for _ in range(source.number(1, 4))})
    makes = (
        lambda s: s.open_word(),
        lambda s: s.number(0, 9999),
        lambda s: s.name(),
        lambda s: s.word("noun"),
    )
    record: dict[str, Value] = {key: source.pick(makes)(source) for key in keys}
    text = _pairs(source, record) if source.chance(0.5) else _row(source, list(record.values()))
    return text, record


def _text_and_answer(source: Source) -> tuple[str, dict[str, Value]]:
    """A text and the record to be extracted from it."""
    if not source.unseen and source.chance(0.12):
        return _open_record(source)
    domain, subject, record = _record(source)
    everything = {domain.subject: subject, **record}
    style = source.rng.random()
    if style < 0.55:
        text = (_tell_person(source, subject, record) if source.chance(0.8) else None) or _tell(
            source, domain, subject, record
        )
        keys, names = _asked(source, everything, domain)
        if source.chance(0.12):
            text = f"{source.pick(NOISE)} {text}" if source.chance(0.5) else f"{text} {source.pick(NOISE)}"
    elif style < 0.82:
        plain = {key: value for key, value in everything.items() if not isinstance(value, list)}
        keys = names = list(plain)
        text = _row(source, list(plain.values()))
    else:
        keys, names = _asked(source, everything, domain)
        renamed = dict(zip(keys, names, strict=True))
        text = _pairs(source, {renamed.get(key, key): value for key, value in everything.items()})
    return text, {name: everything[key] for key, name in zip(keys, names, strict=True)}


def extraction(source: Source, articles: bool = False) -> Doc:
    """Fields of a text as a JSON object; with ``articles`` they are asked as ``the name and the age``."""
    text, answer = _text_and_answer(source)
    ask = source.pick(ASKS)
    if source.chance(0.08):
        ask = ask[0].lower() + ask[1:]
    fields = _field_list(source, list(answer), answer)
    if articles:
        fields = join_words([f"the {key}" for key in answer])
        ask = ask.replace("the {f}", "{f}")
    prompt = ask.replace("{f}", fields).replace("{t}", text)
    reply = json.dumps(answer, ensure_ascii=False)
    return Doc("extract", (Turn(prompt, reply),), level=len(answer), schema=schema_of(answer))


def json_list(source: Source) -> Doc:
    """Words of a sentence as a JSON array of strings."""
    kind = source.pick(["fruit", "animal", "product", "city", "ingredient", "color", "hobby", "first"])
    label = {"city": "cities", "hobby": "hobbies", "first": "names"}.get(kind, f"{kind}s")
    words = source.words(kind, source.number(1, 6))
    listed = join_words(words)
    text = source.pick(
        [
            f"We saw {listed}.",
            f"{listed}",
            f"{source.word('first')} likes {listed}.",
            f"There were {listed} today.",
            f"On the list: {', '.join(words)}.",
            f"I bought {listed} yesterday.",
            f"{', '.join(words)}",
        ]
    )
    ask = source.pick(
        [
            f"List the {label} as JSON: {text}",
            f"Extract the {label} as a JSON array: {text}",
            f"Return the {label} as a JSON list: {text}",
            f"{text}\nList the {label} as JSON.",
            f"JSON list of the {label}: {text}",
        ]
    )
    schema = {"type": "array", "items": {"type": "string"}}
    return Doc(
        "extract", (Turn(ask, json.dumps(words, ensure_ascii=False)),), level=len(words), schema=schema
    )


def json_records(source: Source) -> Doc:
    """Two or three people as a JSON array of objects."""
    keys = ["name", *source.rng.sample(["age", "city", "job", "hobby"], source.number(1, 2))]
    rows: list[dict[str, Value]] = []
    texts = []
    for _ in range(source.number(2, 3)):
        name: Value = source.word("first") if source.chance(0.6) else source.name()
        record = {key: PERSON[key].make(source) for key in keys[1:]}
        texts.append(f"{name} {join_words([_clause(source, PERSON[key], record[key]) for key in record])}.")
        rows.append({"name": name, **record})
    asks = (
        "Extract {f} of each person as JSON: {t}",
        "Extract {f} of everyone as a JSON array: {t}",
        "{t}\nReturn a JSON array with {f}.",
        "List all people with {f} as JSON: {t}",
    )
    ask = source.pick(asks).replace("{f}", _field_list(source, keys, rows[0]))
    schema = {"type": "array", "items": schema_of(rows[0])}
    reply = json.dumps(rows, ensure_ascii=False)
    turn = Turn(ask.replace("{t}", " ".join(texts)), reply)
    return Doc("extract", (turn,), level=len(rows), schema=schema)


def reading(source: Source) -> Doc:
    """A question about one field of a text; the answer is the bare value."""
    domain, subject, record = _record(source)
    everything = {domain.subject: subject, **record}
    key = source.pick(list(everything))
    text = _tell(source, domain, subject, record)
    ask = source.pick(
        ["{t}\nWhat is the {k}?", "{t} What is the {k}?", "Text: {t}\nQuestion: What is the {k}?"]
    )
    prompt = ask.replace("{t}", text).replace("{k}", key.replace("_", " "))
    return Doc("extract", (Turn(prompt, _show(everything[key])),))


def extraction_any(source: Source) -> Doc:
    """An extraction document of the training mix."""
    roll = source.rng.random()
    tasks = ((0.77, extraction), (0.87, json_list), (0.93, json_records), (1.0, reading))
    return next(make for share, make in tasks if roll <= share)(source)
