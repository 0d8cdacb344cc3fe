"""Sizes, durations and moments as a person reads them; JSON keeps the numbers."""

from __future__ import annotations

from datetime import datetime, timezone

SIZES = ("bytes", "kB", "MB", "GB", "TB")  # powers of 1,000, as disks and file managers count


def format_size(n: float) -> str:
    """1 byte, 940 bytes, 1.2 MB, 23.4 GB: three digits."""
    for unit in SIZES[:-1]:
        if n < 999.5:
            return "1 byte" if (n, unit) == (1, SIZES[0]) else f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.3g} {SIZES[-1]}"


def format_seconds(value: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_moment(iso: str | None = None) -> str:
    """A moment of an ISO 8601 text, or now: 2026-11-30 20:16:31 UTC."""
    moment = datetime.now(timezone.utc) if iso is None else datetime.fromisoformat(iso)
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
