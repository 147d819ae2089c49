"""The named algorithms, one a file: text, equation, knobs, and a short chain.

What belongs here: functions of keyword-only options that return an ``Algorithm``. What does not:
transforms, which several algorithms could share. The names are exported by ``headway.algorithms``.
"""

from __future__ import annotations

__all__: list[str] = []
