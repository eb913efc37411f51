"""PostgreSQL, as far as the log, the store and the nodes share it. Imported only if a PostgreSQL URL is set."""
