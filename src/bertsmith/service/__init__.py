"""Models behind HTTP: requests in turns, batches over requests, what is refused and what is counted."""
