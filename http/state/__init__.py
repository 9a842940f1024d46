"""The committed state as a start takes it over and an operator handles it: examined, backed up, restored, compared."""
