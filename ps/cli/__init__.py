"""The command `psctl`: one file per command."""
