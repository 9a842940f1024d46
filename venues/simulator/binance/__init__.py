"""A local Binance spot exchange: the protocol around the matching engine. See `server.LocalExchange`."""
