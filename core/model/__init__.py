"""The vocabulary of the service: instruments, messages, order and fill records, errors."""
