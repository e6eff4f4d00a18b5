"""What `/stats` tells: tokens, context, speed and memory, the promise beside the measurement."""

from __future__ import annotations

from moetool.cli.chat.talk import Measured, Talk
from moetool.render.units import show_bytes, show_range, show_rate


def stats_lines(talk: Talk) -> list[str]:
    """One line for each."""
    engine, totals, n_asked = talk.engine, talk.totals, talk.conversation.n_asked
    predicted = sum(row.total_bytes for row in talk.plan.memory)
    taken = sum(buffer.n_bytes for buffer in engine.buffers)
    exchanges = "1 exchange" if n_asked == 1 else f"{n_asked} exchanges"
    return [
        f"conversation  {exchanges}; {totals.read} tokens read and {totals.written} written in this chat",
        f"context       {engine.n_past} of {engine.n_ctx} tokens ({engine.n_past / engine.n_ctx:.0%})",
        *(_speed_lines(talk.last) if talk.last else ()),
        f"memory        {show_bytes(taken)} taken (predicted {show_bytes(predicted)})",
    ]


def _speed_lines(last: Measured) -> list[str]:
    stats, predicted = last.stats, last.predicted
    prompt = f"prompt        {show_rate(stats.prompt_tok_s)} tok/s over {stats.prompt_tokens} tokens"
    decode = f"decode        {show_rate(stats.decode_tok_s)} tok/s"
    if predicted.prompt_tok_s:
        prompt += f" (predicted {show_rate(predicted.prompt_tok_s)} for long ones)"
    if predicted.decode_tok_s:
        decode += f" (predicted {show_range(predicted.decode_low, predicted.decode_high)})"
    return [prompt, decode]
