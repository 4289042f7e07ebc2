"""Does what the helm command does, with its library: lint, render, install, upgrade, uninstall.

    helm.py ACTION NAMESPACE RELEASE [CHART] < VALUES
"""

import os
import sys

import helm_python as helm

action, namespace, release, *chart = sys.argv[1:]
values = helm.values_from_yaml(sys.stdin.read() or "{}")

if action == "lint":
    report = helm.lint(*chart, values, strict=True, namespace=namespace)
    # 1 is a hint.
    problems = [message for message in report["messages"] if message["severity"] > 1]
    for message in problems:
        print(message["path"], message["error"])
    sys.exit(bool(problems or report["errors"]))

if action == "render":
    with helm.Chart.load(*chart) as loaded:
        manifests = loaded.render(values, name=release, namespace=namespace)
    for name, text in sorted(manifests.items()):
        if text.strip() and not name.endswith("NOTES.txt"):
            print(f"---\n# Source: {name}\n{text.strip()}")
    sys.exit()

with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=namespace) as config:
    if action == "install":
        done = config.install(*chart, release, values, namespace=namespace, create_namespace=True, timeout=100)
    elif action == "upgrade":
        done = config.upgrade(*chart, release, values, namespace=namespace, timeout=100)
    elif action == "uninstall":
        done = config.uninstall(release, wait="legacy", timeout=100)["release"]
    else:
        sys.exit(f"unknown action {action}")
print(done["name"], done["revision"], done["status"])
