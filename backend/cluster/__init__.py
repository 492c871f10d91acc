"""The same over Redis: queues, leases, workers."""
