"""Reading: cursors over the log, and the delivery of its news to everyone who listens."""
