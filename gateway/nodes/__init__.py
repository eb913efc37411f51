"""Several nodes on one database: which of them live, which turns each runs, and how it gets the others' events."""
