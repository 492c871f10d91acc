"""Threads, queues, retries and limits, independent of prompts and masks."""
