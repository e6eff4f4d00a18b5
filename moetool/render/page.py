"""The document of `bench` as one page: no network, no scripts, light and dark, wide and narrow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moetool.charts import Row, make_charts, setting_name, test_name
from moetool.finite import finite
from moetool.render.html import Html, tag, together
from moetool.render.svg import draw, number
from moetool.render.units import show_bandwidth, show_bytes, show_count, show_gib

_STYLE = Path(__file__).with_name("page.css")
# Nothing may be fetched, whatever a name says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def make_page(document: Mapping[str, Any]) -> str:
    """The page of a bench document (`data` of its envelope)."""
    rows: Sequence[Row] = document["rows"]
    sections = (
        *_charts(rows),
        *section("Speed", _speed_table(rows)),
        *section("Quality", _quality_table(document.get("quality") or ())),
        *section("Memory", _memory_table(rows)),
        *_notes(document.get("notes") or ()),
        *section("Machine", _machine_facts(document)),
        *section("Plan", _plan_facts(document.get("plan") or {})),
    )
    return whole_page("bench", _model_name(document), _subtitle(document), sections, document)


def whole_page(
    command: str, heading: str, subtitle: str, sections: Sequence[Html], document: Mapping[str, Any]
) -> str:
    """A page of what a command found out, with its document at the end."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{heading}: {command}"),
        tag("style", Html(_STYLE.read_text("utf-8"))),
    )
    body = tag(
        "body",
        tag("header", tag("h1", heading), tag("p", subtitle)),
        tag("main", *sections, _all_data(document)),
        tag("footer", f"Made by moetool {command}."),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _model_name(document: Mapping[str, Any]) -> str:
    model = (document.get("plan") or {}).get("model") or {}
    rows = document["rows"]
    return str(model.get("name") or (rows[0]["model_type"] if rows else "model"))


def _subtitle(document: Mapping[str, Any]) -> str:
    model = (document.get("plan") or {}).get("model") or {}
    parts = [str(model[name]) for name in ("arch", "quant") if model.get(name)]
    if model.get("n_params"):
        parts.append(f"{show_count(model['n_params'])} parameters")
    if model.get("n_expert"):
        active = show_count(model["n_params_active"])
        parts.append(f"{active} active ({model['n_expert_used']} of {model['n_expert']} experts)")
    if model.get("weights_bytes"):
        parts.append(show_bytes(model["weights_bytes"]))
    if document["rows"]:
        parts.append(str(document["rows"][0]["test_time"]))
    return " · ".join(parts)


def section(title: str, inside: Html) -> list[Html]:
    """A part of a page with a heading; none if nothing is inside."""
    return [tag("section", tag("h2", title), inside)] if inside else []


def _charts(rows: Sequence[Row]) -> list[Html]:
    drawn = [draw(chart) for chart in make_charts(rows)]
    return [tag("section", *drawn, class_="charts")] if drawn else []


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """Columns in which nothing stands are left out; what is not a figure stands to the left."""
    if not rows:
        return Html("")
    kept = [at for at in range(len(heads)) if any(row[at] for row in rows)]
    is_text = {at for at in kept if any(row[at] and not row[at][0].isdigit() for row in rows)}

    def line(cell: str, row: Sequence[str]) -> Html:
        cells = (tag(cell, row[at], class_="text" if at in is_text else None) for at in kept)
        return tag("tr", *cells)

    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("div", tag("table", tag("thead", line("th", heads)), body), class_="scroll")


def _figure(value: float | None, form: str = "{:.1f}") -> str:
    return "" if value is None else form.format(value)


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{number(low)} – {number(high)}"


def _speed_table(rows: Sequence[Row]) -> Html:
    heads = (
        "test",
        "setting",
        "tokens/s",
        "±",
        "median",
        "predicted",
        "first token s",
        "J/token",
        "threads",
        "KV",
    )
    cells = [
        (
            test_name(row),
            setting_name(row) if row.get("point") else "",
            number(row["avg_ts"]),
            number(row["stddev_ts"]),
            number(row["median_ts"]),
            _range(row.get("predicted_low_ts"), row.get("predicted_high_ts")),
            _figure(row.get("ttft_s"), "{:.2f}"),
            _figure(row.get("energy_j_per_token"), "{:.2f}"),
            str(row["n_threads"]),
            f"{row['type_k']}/{row['type_v']}",
        )
        for row in rows
    ]
    return table(heads, cells)


def _quality_table(judged: Sequence[Mapping[str, Any]]) -> Html:
    heads = (
        "setting",
        "against",
        "perplexity",
        "95 %",
        "KLD mean",
        "95 %",
        "median",
        "99 %",
        "max",
        "same top",
    )
    return table(heads, [_quality_cells(one) for one in judged])


def _quality_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    ppl, kld = one["ppl"], one["kld"]
    setting = setting_name(one) if one.get("point") else ""
    against = (one["reference"] or "") + (" (estimated)" if one["estimated"] else "")
    first = (setting, against, _quality_figure(ppl["value"], "{:.4f}"), _range(ppl["low"], ppl["high"]))
    if kld is None:
        return (*first, *[""] * 6)
    return (
        *first,
        _quality_figure(kld["mean"]["value"], "{:.6f}"),
        _range(kld["mean"]["low"], kld["mean"]["high"]),
        _quality_figure(kld["median"]["value"], "{:.6f}"),
        _quality_figure(kld["p99"]["value"], "{:.4f}"),
        _quality_figure(kld["max"], "{:.3f}"),
        f"{100 * kld['same_top']['value']:.2f} %",
    )


def _quality_figure(value: float | None, form: str) -> str:
    """A document says null of what is infinite."""
    return "infinite" if value is None else form.format(value)


def _memory_table(rows: Sequence[Row]) -> Html:
    seen: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in rows:
        for use in row.get("memory") or ():
            name = setting_name(row) if row.get("point") else ""
            cells = (use["device"], name, show_bytes(use["bytes"]), show_bytes(use["predicted_bytes"]))
            seen.setdefault((use["device"], name), cells)
    return table(("device", "setting", "made", "predicted"), list(seen.values()))


def _notes(notes: Sequence[str]) -> list[Html]:
    return section("Notes", tag("ul", *(tag("li", note) for note in notes)) if notes else Html(""))


def _facts(facts: Mapping[str, str]) -> Html:
    rows = [together(tag("dt", name), tag("dd", text)) for name, text in facts.items() if text]
    return tag("dl", *rows) if rows else Html("")


def _machine_facts(document: Mapping[str, Any]) -> Html:
    machine = (document.get("plan") or {}).get("machine") or {}
    facts = {"CPU": f"{machine.get('cpu_name', '')}, {machine.get('n_cores')} cores" if machine else ""}
    for device in machine.get("devices") or ():
        memory = f"{show_gib(device['free_bytes'])} of {show_gib(device['total_bytes'])} GiB free"
        speed = device.get("bandwidth_bytes_s")
        parts = [device["description"], memory, show_bandwidth(speed) if speed else ""]
        facts[device["name"]] = ", ".join(part for part in parts if part)
    rows = document["rows"]
    if rows:
        facts["llama.cpp"] = f"{rows[0]['build_commit']}, back ends {rows[0]['backends']}"
    return _facts(facts)


def _plan_facts(plan: Mapping[str, Any]) -> Html:
    settings = plan.get("settings") or {}
    if not settings:
        return Html("")
    facts = {
        "Context": f"{settings['n_ctx']} tokens, KV cache {settings['type_k']}/{settings['type_v']}",
        "Threads": str(settings["n_threads"]),
        "GPU layers": str(settings["n_gpu_layers"]) if settings["devices"] else "",
        "Batch": f"{settings['n_batch']}, {settings['n_ubatch']} at once",
    }
    why = [tag("li", reason["text"]) for reason in plan.get("reasons") or ()]
    return together(_facts(facts), tag("ul", *why) if why else Html(""))


def _all_data(document: Mapping[str, Any]) -> Html:
    text = json.dumps(finite(document), indent=1, ensure_ascii=False)
    return tag("details", tag("summary", "All data as JSON"), tag("pre", text))
