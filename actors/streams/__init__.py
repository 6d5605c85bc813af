"""All that speaks Redis: key names, scripts, leases, partitions, clients."""
