"""Numbers as people read them. Bytes become GiB here and nowhere else."""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def show_bytes(n_bytes: float) -> str:
    """ "7.6 MiB", "18.4 GiB": three significant digits and a unit."""
    for size, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n_bytes >= size:
            return f"{_three(n_bytes / size)} {unit}"
    return f"{n_bytes:.0f} B"


def show_gib(n_bytes: float) -> str:
    """The bare number of GiB, for columns with the unit in their head."""
    return f"{n_bytes / GIB:.1f}" if n_bytes >= 0.05 * GIB else f"{n_bytes / GIB:.3f}"


def show_count(count: float) -> str:
    """ "34.7 B", "7.48 M": parameters and the like."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{_three(count / size)} {unit}"
    return f"{count:.0f}"


def show_share(share: float, digits: int = 0) -> str:
    """ "17%", "<1%": a little is not nothing."""
    least = 10.0 ** -(digits + 2)
    return f"<{least:.{digits}%}" if 0 < share < least / 2 else f"{share:.{digits}%}"


def show_rate(tok_s: float | None) -> str:
    """Tokens per second; "?" when unknown."""
    return "?" if tok_s is None else _three(tok_s)


def show_range(low: float | None, high: float | None) -> str:
    """ "21 – 26"; "?" when unknown."""
    if low is None or high is None:
        return "?"
    return f"{_three(low)} – {_three(high)}"


def show_bandwidth(bytes_s: float | None) -> str:
    """ "504 GB/s": vendors count bandwidth in powers of ten."""
    return "unknown" if bytes_s is None else f"{_three(bytes_s / 1e9)} GB/s"


def _three(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
