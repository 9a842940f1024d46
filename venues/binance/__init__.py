"""Binance spot: its protocol as pure functions of bytes and structs, and the clients that speak it."""
