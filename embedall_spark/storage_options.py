"""Arguments of pyarrow's clients, translated from what Spark was told of the same storage (``spark.hadoop.fs.*``)."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Any
from urllib.parse import urlsplit

from embedall_spark import hadoop_options
from embedall_spark.errors import ConfigError

_S3_CHAIN = {
    "DefaultCredentialsProvider", "DefaultAWSCredentialsProviderChain", "EnvironmentVariableCredentialsProvider",
    "IAMInstanceCredentialsProvider", "InstanceProfileCredentialsProvider",
    "ContainerCredentialsProvider", "WebIdentityTokenFileCredentialsProvider", "WebIdentityTokenCredentialsProvider",
    "ProfileCredentialsProvider", "ProfileAWSCredentialsProvider", "EC2ContainerCredentialsProviderWrapper",
}  # fmt: skip
"""Providers of hadoop-aws that look where the AWS SDK looks by itself, as pyarrow's client does."""
_S3_KEYS = {"SimpleAWSCredentialsProvider", "TemporaryAWSCredentialsProvider"}
_S3_VARIABLES = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)"


def s3(bucket: str) -> dict[str, Any]:
    """Return the arguments of pyarrow's S3FileSystem for a bucket.

    Raises:
        ConfigError: Spark's way to the credentials cannot be followed outside the JVM, and the environment has none.
    """

    def option(name: str) -> str | None:
        return hadoop_options.get(f"fs.s3a.bucket.{bucket}.{name}") or hadoop_options.get(f"fs.s3a.{name}")

    arguments: dict[str, Any] = {"region": option("endpoint.region")}
    if endpoint := option("endpoint"):
        plain = option("connection.ssl.enabled") == "false"
        parts = urlsplit(endpoint if "://" in endpoint else f"{'http' if plain else 'https'}://{endpoint}")
        arguments |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
        # As hadoop-aws does: a bucket is a part of the host's name unless the host is an address.
        named = option("path.style.access") != "true" and not _is_address(parts.hostname or "")
        arguments["force_virtual_addressing"] = named
    elif endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        # pyarrow reads them only for clients of its own URIs.
        arguments |= {"scheme": urlsplit(endpoint).scheme, "endpoint_override": urlsplit(endpoint).netloc}
    if proxy := option("proxy.host"):
        arguments["proxy_options"] = _proxy(proxy, option)
    return {name: value for name, value in (arguments | _s3_credentials(bucket, option)).items() if value is not None}


def _s3_credentials(bucket: str, option: Any) -> dict[str, Any]:
    named = re.findall(r"[\w$.]*?(\w+)\s*(?:,|$)", option("aws.credentials.provider") or "")
    known = {"AnonymousAWSCredentialsProvider", "AssumedRoleCredentialProvider", *_S3_CHAIN, *_S3_KEYS}
    if "AnonymousAWSCredentialsProvider" in named:
        return {"anonymous": True}
    if "AssumedRoleCredentialProvider" in named:
        names = {"role_arn": "arn", "session_name": "session.name", "external_id": "external.id"}
        return {argument: option(f"assumed.role.{name}") for argument, name in names.items()}
    keys = {
        argument: option(name)
        for argument, name in (
            *(("access_key", "access.key"), ("secret_key", "secret.key")),
            ("session_token", "session.token"),
        )
    }
    if keys["access_key"] and keys["secret_key"] and (not named or _S3_KEYS & set(named)):
        return keys
    hidden = hadoop_options.get("hadoop.security.credential.provider.path") or option(
        "security.credential.provider.path"
    )
    foreign = [name for name in named if name not in known]
    if (foreign or hidden) and "AWS_ACCESS_KEY_ID" not in os.environ:
        where = f"fs.s3a.aws.credentials.provider={foreign[0]}" if foreign else "a credential provider path of Hadoop"
        raise _untranslated(f"s3a://{bucket}", where, _S3_VARIABLES)
    return {}


def _proxy(host: str, option: Any) -> dict[str, Any]:
    names = {"username": "proxy.username", "password": "proxy.password"}
    proxy = {"scheme": "http", "host": host, "port": int(option("proxy.port") or 80)}
    return proxy | {argument: option(name) for argument, name in names.items() if option(name)}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def azure(host: str) -> dict[str, Any]:
    """Return the arguments of pyarrow's AzureFileSystem for the host of an account, ``ACCOUNT.dfs.core.windows.net``.

    Raises:
        ConfigError: as s3().
    """

    def option(name: str) -> str | None:
        return hadoop_options.get(f"fs.azure.{name}.{host}") or hadoop_options.get(f"fs.azure.{name}")

    account, _, domain = host.partition(".")
    arguments: dict[str, Any] = {"account_name": account}
    if domain and domain != "dfs.core.windows.net":
        arguments |= {"dfs_storage_authority": f".{domain}"}
        arguments |= {"blob_storage_authority": f".{re.sub('^dfs[.]', 'blob.', domain)}"}
    kind = option("account.auth.type") or "SharedKey"
    if kind == "SharedKey":
        key = option("account.key")
        return arguments | ({"account_key": key} if key else {})
    if kind == "SAS" and (token := option("sas.fixed.token")):
        return arguments | {"sas_token": token.removeprefix("?")}
    provider = (option("account.oauth.provider.type") or "").rpartition(".")[2]
    tenant = re.search(r"//[^/]+/([^/]+)/oauth2", option("account.oauth2.client.endpoint") or "")
    identity, secret = option("account.oauth2.client.id"), option("account.oauth2.client.secret")
    if provider == "ClientCredsTokenProvider" and tenant and identity and secret:
        return arguments | {"tenant_id": tenant[1], "client_id": identity, "client_secret": secret}
    if provider == "MsiTokenProvider":
        return arguments | ({"client_id": identity} if identity else {})
    if "AZURE_CLIENT_ID" not in os.environ:
        variables = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        raise _untranslated(f"abfss://{host}", f"fs.azure.account.auth.type={kind} {provider}".strip(), variables)
    return arguments


def gcs() -> dict[str, Any]:
    """Return the arguments of pyarrow's GcsFileSystem.

    Raises:
        ConfigError: as s3().
    """
    arguments: dict[str, Any] = {"project_id": hadoop_options.get("fs.gs.project.id")}
    arguments["target_service_account"] = hadoop_options.get("fs.gs.auth.impersonation.service.account")
    if root := hadoop_options.get("fs.gs.storage.root.url"):
        parts = urlsplit(root)
        arguments |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    keyfile = hadoop_options.get("fs.gs.auth.service.account.json.keyfile")
    kind = hadoop_options.get("fs.gs.auth.type") or ("SERVICE_ACCOUNT_JSON_KEYFILE" if keyfile else "COMPUTE_ENGINE")
    if kind == "UNAUTHENTICATED":
        arguments["anonymous"] = True
    elif kind not in ("COMPUTE_ENGINE", "APPLICATION_DEFAULT") and "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ:
        raise _untranslated("gs://", f"fs.gs.auth.type={kind}", "GOOGLE_APPLICATION_CREDENTIALS")
    return {name: value for name, value in arguments.items() if value is not None}


def hdfs(authority: str) -> dict[str, str]:
    """Return the configuration of hdfs-native's client that Spark was told; it reads HADOOP_CONF_DIR by itself."""
    found = {}

    def take(name: str) -> str | None:
        if value := hadoop_options.get(name):
            found[name] = value
        return value

    for name in ("fs.defaultFS", "hadoop.security.authentication", "dfs.client.use.datanode.hostname"):
        take(name)
    if take("dfs.client.failover.max.attempts") is None and ":" in authority:
        # There is no other NameNode to wait for: some seconds, as Hadoop's own client, and not two minutes.
        found["dfs.client.failover.max.attempts"] = "4"
    for service in (take("dfs.nameservices") or authority).split(","):
        take(f"dfs.client.failover.proxy.provider.{service}")
        for node in (take(f"dfs.ha.namenodes.{service}") or "").split(","):
            take(f"dfs.namenode.rpc-address.{service}.{node}")
    return found


def _untranslated(storage: str, setting: str, variables: str) -> ConfigError:
    return ConfigError(
        f"{storage}: Spark has its credentials by {setting}, which Python's clients cannot follow; set {variables} for "
        "the driver and, by spark.executorEnv.NAME or on the hosts, for the executors"
    )
