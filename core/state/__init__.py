"""What survives: the committed state in Redis, the server that keeps it, and the archive of what left it."""
