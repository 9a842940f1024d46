"""The trading core: orders, execution, portfolio, risk, market data and state.

Nothing in here imports a venue or the HTTP server, and nothing in here reads the wall clock, draws a random number
or opens a socket by itself: clock, ids, randomness and the event loop are handed in.
"""
