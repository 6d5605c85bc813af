"""The command line. Empty on purpose: actors start through it and wait for nothing they do not need."""
