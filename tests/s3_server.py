"""An S3 server of this machine (moto), which counts no traffic elsewhere: buckets live in this process."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager

import pyarrow.fs as pafs

BUCKET = "lake"
SECRETS = {"access.key": "AKIATEST", "secret.key": "s3cr3t-of-the-lake", "session.token": "t0ken-of-the-lake"}


@contextmanager
def serving():
    """Run a server with one bucket; give its address and a client of it.

    It is S3 alone: moto's server for all services lists their folders for each request, half of its processor time.
    """
    import boto3
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, create_backend_app("s3"), threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
        boto = boto3.client("s3", endpoint_url=address, **keys)
        boto.create_bucket(Bucket=BUCKET)
        yield address, boto
    finally:
        server.shutdown()
        thread.join()


def client(endpoint: str) -> pafs.S3FileSystem:
    """Return a client that was told nothing by Spark."""
    return pafs.S3FileSystem(
        access_key="x", secret_key="y", region="us-east-1", scheme="http", endpoint_override=endpoint.split("//")[1]
    )


def options(endpoint: str) -> dict[str, str]:
    """Return what Spark is told of the server, as options of Hadoop."""
    told = {"endpoint": endpoint, "endpoint.region": "us-east-1", "path.style.access": "true", **SECRETS}
    return {f"fs.s3a.{name}": value for name, value in told.items()}
