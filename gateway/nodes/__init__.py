"""Several nodes on one database: who lives, who goes on with what, and how each hears of the others' events."""
