"""Node metrics: what happens between nodes that share a database."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class NodeMetrics:
    """Without PostgreSQL these metrics have no values, or 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, buckets=_SECONDS, registry=registry)

        self._nodes = Gauge(
            "gateway_nodes", "Living nodes; 0 while this process is none, or can't say that it lives", registry=registry
        )
        self._buried = counter("gateway_nodes_buried", "Nodes that this one took for dead")
        self._rejoins = counter("gateway_node_rejoins", "Times that this node was fenced, and joined again")
        self._adopted = counter("gateway_stretches_adopted", "Stretches taken over from other nodes")
        self._again = counter("gateway_log_batches_written_again", "Batches that PostgreSQL had lost at a failover")
        self._taken_back = counter("gateway_logs_taken_back", "Logs whose end was shown here, and then lost for good")
        self._commits = histogram("gateway_log_commit_seconds", "How long PostgreSQL took for a batch")
        self._lag = histogram("gateway_node_lag_seconds", "From another node's commit until its events are here")
        self._way = Gauge("gateway_node_news_way", "1 for the way that news takes now", ["way"], registry=registry)
        self._batches = Counter("gateway_node_batches", "Other nodes' batches, by way", ["way"], registry=registry)
        self._from_redis, self._from_postgresql = (self._batches.labels(way) for way in ("redis", "postgresql"))
        self._refused = counter("gateway_node_news_refused", "Messages in Redis that no node had sent")
        self._news = histogram("gateway_node_news_seconds", "From another node's ring until its batches are read")

    def nodes_counted(self, nodes: int) -> None:
        """PostgreSQL has accepted this node's beat, and counts so many nodes. 0: it has accepted none for too long, or
        this process is no node any more."""
        self._nodes.set(nodes)

    def nodes_buried(self, times: int) -> None:
        """This node has buried so many others."""
        self._buried.inc(times)

    def node_rejoined(self) -> None:
        """This process was fenced, because it was taken for dead or cut off for too long, and is another node now."""
        self._rejoins.inc()

    def stretches_adopted(self, times: int) -> None:
        """This node has adopted so many stretches, running or ended."""
        self._adopted.inc(times)

    def batches_written_again(self, times: int) -> None:
        """PostgreSQL had lost its last moments, and this node has written so many batches again."""
        self._again.inc(times)

    def log_taken_back(self) -> None:
        """PostgreSQL had lost the end of a log that was shown here, and somebody has gone on before it."""
        self._taken_back.inc()

    def log_committed(self, seconds: float) -> None:
        """PostgreSQL has made a batch durable."""
        self._commits.observe(seconds)

    def news_read(self, lag: float, seconds: float) -> None:
        """Another node's batches were read: `lag` seconds after their commit, `seconds` after its ring arrived."""
        self._lag.observe(lag)
        self._news.observe(seconds)

    def batch_heard(self, lag: float, seconds: float) -> None:
        """Another node's batch came over Redis: it was read `lag` after its commit, `seconds` after it came."""
        self._from_redis.inc()
        self.news_read(lag, seconds)

    def batches_read(self, number: int) -> None:
        """So many of another node's batches were read in PostgreSQL."""
        self._from_postgresql.inc(number)

    def news_goes(self, *, redis: bool | None) -> None:
        """Redis came or went, and news goes over it or over PostgreSQL. None: no Redis is configured."""
        if redis is not None:
            self._way.labels("redis").set(redis)
        self._way.labels("postgresql").set(not redis)

    def news_refused(self) -> None:
        """Somebody else than the node has written into its channel in Redis."""
        self._refused.inc()
