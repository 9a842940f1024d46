"""Markets without an exchange: recorded ones and made-up ones."""
