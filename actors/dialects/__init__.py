"""Wire formats owed to others, as pure translations of events; the only place that keeps their words."""
