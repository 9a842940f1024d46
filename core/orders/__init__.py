"""Orders: their life, their links, their triggers, their history."""
