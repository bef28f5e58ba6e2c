"""An S3 server of this machine (moto), which counts no traffic elsewhere: buckets live in this process."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import pyarrow.fs as pafs

BUCKET = "lake"
SECRETS = {"access.key": "AKIATEST", "secret.key": "s3cr3t-of-the-lake", "session.token": "t0ken-of-the-lake"}


@contextmanager
def serving():
    """Run a server with one bucket; give its address and a client of it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
        boto = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
        boto.create_bucket(Bucket=BUCKET)
        yield f"http://{host}:{port}", boto
    finally:
        server.stop()


def client(endpoint: str) -> pafs.S3FileSystem:
    """Return a client that was told nothing by Spark."""
    return pafs.S3FileSystem(
        access_key="x", secret_key="y", region="us-east-1", scheme="http", endpoint_override=endpoint.split("//")[1]
    )


def options(endpoint: str) -> dict[str, str]:
    """Return what Spark is told of the server, as options of Hadoop."""
    told = {"endpoint": endpoint, "endpoint.region": "us-east-1", "path.style.access": "true", **SECRETS}
    return {f"fs.s3a.{name}": value for name, value in told.items()}
