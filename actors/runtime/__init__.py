"""What runs an actor: the stage loop, its life, its supervisor, metrics and logs."""
