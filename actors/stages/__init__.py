"""The pure folds: raw to events, events to books. Same input, same (k, text) output."""
