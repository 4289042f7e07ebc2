"""The AWS SDK for Python, looking for credentials or for the region as an application does."""

import json
import sys
import time

import boto3
from botocore.utils import IMDSRegionProvider


def credentials():
    found = boto3.Session().get_credentials()
    return found and found.access_key


def region():
    return IMDSRegionProvider(boto3.Session()._session).provide()


look_up = {"credentials": credentials, "region": region}[sys.argv[1]]
started = time.monotonic()
found = error = None
try:
    found = look_up()
    if not found:
        error = "nothing found"
except Exception as raised:
    error = f"{type(raised).__name__}: {raised}"
milliseconds = (time.monotonic() - started) * 1000
print(json.dumps({"found": found, "error": error, "milliseconds": milliseconds}))
