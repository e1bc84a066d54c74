"""Ways to move messages between named peers: `base` is the seam, each other module one way to fill it."""
