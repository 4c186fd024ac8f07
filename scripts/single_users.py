"""Import contract: a module of `common` has two users, or belongs to its only one.

A user is a project, or the program (`common.cli` and `common.engine`). Imports inside functions
and imports by way of other modules count.
"""

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

PROGRAM = "the program"
_PROGRAM = ("common.cli.", "common.engine.")


def users(graph: ImportGraph, module: str) -> set[str]:
    """Projects that reach a module, and `PROGRAM` if it does."""
    reached = set()
    for name in graph.find_downstream_modules(module, as_package=True) | {module}:
        if name.startswith("projects."):
            reached.add(name.split(".")[1])
        elif f"{name}.".startswith(_PROGRAM):
            reached.add(PROGRAM)
    return reached


def single_users(graph: ImportGraph, public: set[str]) -> dict[str, str | None]:
    """Modules of `common` outside `public` with one project as user, or with none."""
    prefixes = tuple(f"{name}." for name in public)
    single: dict[str, str | None] = {}
    for module in sorted(graph.find_descendants("common")):
        reached = users(graph, module)
        if not f"{module}.".startswith(prefixes) and len(reached) < 2 and reached != {PROGRAM}:
            single[module] = next(iter(reached), None)
    return single


class TwoUsersContract(Contract):
    """Contract of type `two_users`.

    Configuration options:
        - public: packages that users of the repository import themselves.
    """

    type_name = "two_users"
    public = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find the modules that have fewer than two users."""
        single = single_users(graph, self.public)  # type: ignore[arg-type]
        return ContractCheck(kept=not single, metadata={"single": single})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """One line a module."""
        for module, project in check.metadata["single"].items():
            if project:
                output.print_error(f"{module}: only {project} uses it, move it there")
            else:
                output.print_error(f"{module}: nothing uses it, delete it")
