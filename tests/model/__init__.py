"""A model of how several nodes share one log, small enough that every order of its steps can be tried."""
