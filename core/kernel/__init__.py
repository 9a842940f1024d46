"""The message bus, actors, clock, outbox and supervision that everything runs on."""
