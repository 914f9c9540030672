"""What `verify` says: one row for each member and output."""

import dataclasses
import io

from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Row:
    """How far one output of a packed model is from that of one member alone.

    Attributes:
        member: The index of the member.
        member_name: Its name: a file's path, or the model's name.
        output: The name of the output.
        difference: The largest difference, relative to the largest number that the member gives; inf for other shapes,
            or for an inf or NaN that only one side has.
        tolerance: What is allowed for the dtype that the model computes in.
    """

    member: int
    member_name: str
    output: str
    difference: float
    tolerance: float

    @property
    def passed(self):
        return self.difference <= self.tolerance

    def __str__(self):
        return (
            f"a relative difference of {self.difference:.3g} for member {self.member}, {self.member_name}, output "
            f"'{self.output}', where {self.tolerance:.0e} is rounding"
        )


class Report(list):
    """A list of `Row`s, printed as a table."""

    @property
    def passed(self):
        """Whether every difference is within its tolerance."""
        return all(row.passed for row in self)

    @property
    def worst(self):
        """The row of the largest difference."""
        return max(self, key=lambda row: row.difference)

    def table(self):
        """The report as a `rich` table."""
        table = Table(title="packed against alone")
        for column in ("member", "name", "output", "difference", "tolerance", ""):
            table.add_column(column)
        for row in self:
            numbers = f"{row.difference:.2e}", f"{row.tolerance:.0e}"
            table.add_row(str(row.member), row.member_name, row.output, *numbers, "" if row.passed else "FAILED")
        return table

    def __str__(self):
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        return console.file.getvalue()

    __repr__ = __str__
