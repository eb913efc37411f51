"""The migrations, oldest first by their number. The newest one's is also `gateway.store.schema.REVISION`."""
