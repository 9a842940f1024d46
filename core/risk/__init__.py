"""What may be traded: pre-trade checks and the trading state."""
