"""From a request to a plan: which venue, which price at worst, what it will cost; and the sending."""
