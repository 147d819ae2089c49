"""The parts of the report: one module for each section, and what they share.

Here belongs what turns results into markup. Here does not belong what computes results, nor
anything that needs a network, a browser or a package for drawing: a report is text, made by text.
"""

from __future__ import annotations

from headway.observe.html.document import render
from headway.observe.html.groups import Goal

__all__ = ["Goal", "render"]
