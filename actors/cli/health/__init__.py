"""What ``tapeline doctor`` examines: this machine, its store, its network."""
