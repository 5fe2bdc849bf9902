"""A trained run as an agent that acts in one environment of the user's own."""

from __future__ import annotations
