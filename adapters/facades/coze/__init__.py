"""The door that speaks Coze's own API: apps on Coze's SDKs get resume and recovery by another base URL."""
