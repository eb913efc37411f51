"""Coze as the gateway sees it: a protocol, and its implementation over HTTP."""
