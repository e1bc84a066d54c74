"""What a run will take, before it is run: profiles of a script, experiments without payload, recommendations."""
