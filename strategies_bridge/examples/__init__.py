"""Strategies to begin with: each is read in one sitting, and runs as it stands."""
