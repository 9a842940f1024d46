"""Where orders go: one package a venue, each a pure codec and a thin client. May import `core`, never `http`."""
