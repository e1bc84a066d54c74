"""Conformance checks for authors of plug-ins and transports: each raises AssertionError saying what is broken."""

from __future__ import annotations

from ps.testing.codecs import check_codec
from ps.testing.consistency import check_consistency
from ps.testing.optimizers import check_optimizer
from ps.testing.transports import check_transport

__all__ = ["check_codec", "check_consistency", "check_optimizer", "check_transport"]
