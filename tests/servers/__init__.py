"""Real databases and brokers for the tests, each in a directory of its own on free loopback ports."""
