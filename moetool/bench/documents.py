"""Documents to write: JSON schemas of the kinds that models are asked for, some mostly text, some structure.

Strings are bounded: a model that was not trained never ends them.
"""

from __future__ import annotations

from typing import Any

PROMPT = "Describe the order as JSON."


def _object(**properties: Any) -> dict[str, Any]:
    """All of them required, no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _number(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _text(length: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": length}


def _one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


YES_NO = {"type": "boolean"}
LINE = _object(
    product_code=_number(1000, 9999), quantity=_number(1, 99), unit_of_measure=_one_of("piece", "box")
)

# Name -> whether most of the document is its structure, and the schema.
SCHEMAS: dict[str, tuple[bool, dict[str, Any]]] = {
    "summary": (False, _object(title=_text(30), summary=_text(160))),
    "person": (False, _object(name=_text(24), age=_number(0, 150), city=_text(20), email=_text(24))),
    "review": (
        False,
        _object(
            sentiment=_one_of("positive", "neutral", "negative"),
            score=_number(1, 10),
            reasons={"type": "array", "items": _text(20), "minItems": 2, "maxItems": 2},
        ),
    ),
    "tool call": (
        True,
        _object(
            function=_one_of("create_calendar_event", "send_email_message", "search_documents"),
            arguments=_object(
                start_hour=_number(0, 23),
                duration_minutes=_number(5, 240),
                is_all_day_event=YES_NO,
                reminder_minutes_before=_number(0, 60),
            ),
        ),
    ),
    "order": (
        True,
        _object(
            order_number=_number(10000, 99999),
            delivery_country=_one_of("Germany", "France", "Italy"),
            order_lines={"type": "array", "items": LINE, "minItems": 3, "maxItems": 3},
            payment_method=_one_of("credit_card", "bank_transfer", "invoice"),
        ),
    ),
    "settings": (
        True,
        _object(
            enable_notifications=YES_NO,
            enable_automatic_updates=YES_NO,
            preferred_language=_one_of("English", "German", "French"),
            maximum_download_size_megabytes=_number(1, 999),
            connection_timeout_seconds=_number(1, 60),
            log_level=_one_of("debug", "information", "warning", "error"),
            share_anonymous_usage_statistics=YES_NO,
        ),
    ),
    "inventory": (
        True,
        _object(
            warehouse=_object(
                warehouse_identifier=_number(1, 99),
                region=_one_of("north", "south", "east", "west"),
                is_temperature_controlled=YES_NO,
            ),
            current_stock_quantity=_number(0, 9999),
            minimum_stock_quantity=_number(0, 99),
            replenishment_status=_one_of("not_required", "ordered", "delayed"),
        ),
    ),
}
