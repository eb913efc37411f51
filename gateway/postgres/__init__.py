"""PostgreSQL, as far as the log, the store and the nodes share it. Imported only where a URL asks for it."""
