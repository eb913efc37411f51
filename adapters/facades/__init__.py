"""Facades: doors that speak other services' protocols, so that their clients get what this gateway does."""
