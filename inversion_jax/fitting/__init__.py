"""One step, one loop, what they cost, and how every image is scored once."""
