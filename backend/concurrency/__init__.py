"""Threads and queues, without anything of this domain."""
