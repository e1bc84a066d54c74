"""Recordings: what every server applied, in order, in one file each; and their replay."""
