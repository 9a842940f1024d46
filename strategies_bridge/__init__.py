"""Where decisions come from: signals, the sibling services, strategies. May import `core`, never `venues` or `http`."""
