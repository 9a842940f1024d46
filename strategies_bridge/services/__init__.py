"""Clients of the bot's other services: what is asked of each, and what is made of its answer."""
