"""Sources of h: what is known of an image, and what may stand between it and the inverter."""
