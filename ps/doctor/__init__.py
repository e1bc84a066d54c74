"""`psctl doctor`: looks at this machine and at a cluster, a line for each thing that was looked at."""
