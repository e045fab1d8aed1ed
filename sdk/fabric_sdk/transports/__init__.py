"""The ways a message can travel. `base` says what every way promises; the suite `tests/contract` holds them to it."""
