"""Experiments: a file says what to compare, `psctl sweep` runs it cell by cell, `psctl report` shows what came out."""
