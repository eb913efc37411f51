"""Tests of the page and the client module, in a real browser and in Node, against a stub gateway and the real one."""
