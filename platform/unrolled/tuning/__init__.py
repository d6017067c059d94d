"""Floor 7: searching the space of configs, and the report of what was found."""
