#!/usr/bin/env python3
"""Checks manifests: check.py VERSION FILE...

Each against the schemas of Kubernetes (package kubernetes-validate, which brings
them along), strictly, and what schemas cannot say: VERSION of rewarm in every image
and path of its, mounts that lead to volumes, a preloaded library that is in a mount,
rights that nobody needs. Prints what is wrong and exits with 1, or with 77 if the
package is missing.
"""

import sys
from pathlib import Path

try:
    import kubernetes_validate
    import yaml
except ImportError as error:
    print(f"{error}: pip install kubernetes-validate")
    sys.exit(77)

KUSTOMIZE = "kustomize.config.k8s.io/v1beta1"
# The oldest one that is still in use, and the newest known.
RELEASES = ["1.28", kubernetes_validate.latest_version()]


def schema_problems(manifest):
    for release in RELEASES:
        try:
            kubernetes_validate.validate(manifest, release, strict=True)
        except (
            kubernetes_validate.ValidationError,
            kubernetes_validate.SchemaNotFoundError,
            kubernetes_validate.InvalidSchemaError,
        ) as error:
            yield f"Kubernetes {release}: {getattr(error, 'message', error)}"


def pod_spec(manifest):
    spec = manifest.get("spec", {})
    return spec.get("template", {}).get("spec", {}) if "template" in spec else spec


def containers(spec):
    return spec.get("initContainers", []) + spec.get("containers", [])


def mount_problems(spec):
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    used = set()
    for container in containers(spec):
        mounts = container.get("volumeMounts", [])
        used |= {mount["name"] for mount in mounts}
        paths = [mount["mountPath"] + "/" for mount in mounts]
        for variable in container.get("env", []):
            library = variable.get("value", "")
            if variable["name"] == "LD_PRELOAD" and not library.startswith(tuple(paths)):
                yield f"LD_PRELOAD={library} is in no mount"
    for name in sorted(used - volumes):
        yield f"there is no volume {name}"
    for name in sorted(volumes - used):
        yield f"volume {name} is not used"


def rights_problems(spec):
    for name in ["hostPID", "hostIPC", "hostNetwork"]:
        if spec.get(name):
            yield f"{name} is not needed"
    for container in containers(spec):
        rights = container.get("securityContext", {})
        wanted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for key, value in wanted.items():
            if rights.get(key) != value:
                yield f"container {container['name']}: {key} has to be {value}"
        if rights.get("privileged"):
            yield f"container {container['name']} is privileged"


def version_problems(version, text):
    for mark in ["/opt/rewarm/", "rewarm:", "newTag: "]:
        for piece in text.split(mark)[1:]:
            found = piece.split()[0].split("/")[0]
            if found[:1].isdigit() and found != version:
                yield f"{mark}{found} is not version {version}"


def kustomization_problems(manifest, folder):
    for name in manifest.get("resources", []):
        if not (folder / name).is_file():
            yield f"resource {name} is not there"


def problems(version, path):
    text = path.read_text()
    yield from version_problems(version, text)
    try:
        manifests = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        yield " ".join(str(error).split())
        return
    for manifest in manifests:
        if manifest.get("apiVersion") == KUSTOMIZE:
            yield from kustomization_problems(manifest, path.parent)
            continue
        yield from schema_problems(manifest)
        spec = pod_spec(manifest)
        yield from mount_problems(spec)
        yield from rights_problems(spec)


def main(version, *names):
    found = [f"{name}: {each}" for name in names for each in problems(version, Path(name))]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
