"""The gateway's tests. Their folders mirror the source, and a test's name is a sentence about behaviour."""
