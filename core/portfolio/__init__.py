"""What is owned and what it is worth: ledger, positions, valuation, performance."""
