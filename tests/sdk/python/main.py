"""The AWS SDK for Python, looking for credentials or for the region as an application does."""

import json
import os
import sys
import time

import boto3
from botocore.utils import IMDSRegionProvider


def credentials(session):
    found = session.get_credentials()
    return found and found.access_key


def region(session):
    return IMDSRegionProvider(session._session).provide()


look_up = {"credentials": credentials, "region": region}[sys.argv[1]]
# What the SDK loads when it is first used is part of the start-up: once it looks without asking IMDS.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
look_up(boto3.Session())
del os.environ["AWS_EC2_METADATA_DISABLED"]
session = boto3.Session()

started = time.monotonic()
found = error = None
try:
    found = look_up(session)
    if not found:
        error = "nothing found"
except Exception as raised:
    error = f"{type(raised).__name__}: {raised}"
milliseconds = (time.monotonic() - started) * 1000
print(json.dumps({"found": found, "error": error, "milliseconds": milliseconds}))
