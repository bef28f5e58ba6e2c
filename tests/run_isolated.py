"""Run a script where only the given distributions, and what these require, can be imported: SCRIPT REQUIREMENT..."""

import runpy
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(names):
    """Return the names of distributions and of all that they require here, extras aside."""
    modules, left = set(), list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name in modules:
            continue
        modules.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        wanted = map(Requirement, required)
        left += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return modules


class Refuse:
    """Refuses modules of other distributions."""

    def __init__(self, allowed):
        self.allowed = allowed
        self.owners = metadata.packages_distributions()

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owners = {canonicalize_name(owner) for owner in self.owners.get(top, ())}
        if top == "embedall_spark" or (owners and not owners & self.allowed):
            raise ModuleNotFoundError(f"{name} is not declared", name=name)


sys.meta_path.insert(0, Refuse(closure(Requirement(one).name for one in sys.argv[2:])))
for module in ("pyspark", "torch", "numba", "embedall_spark"):
    try:
        __import__(module)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{module} could be imported")
runpy.run_path(sys.argv[1])
