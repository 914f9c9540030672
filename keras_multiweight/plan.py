"""Which rule each layer of a packed model got."""

import io

from rich.console import Console
from rich.table import Table

COLUMNS = ("layer", "class", "rule", "packed")


class Plan(list):
    """The plan of a packed model: a list of rows `{"layer", "class", "rule", "packed"}`, printed as a table."""

    def __init__(self, rows, num_members):
        super().__init__(rows)
        self.num_members = num_members

    def table(self):
        """The plan as a `rich` table."""
        table = Table(title=f"{self.num_members} members in one graph")
        for column in COLUMNS:
            table.add_column(column)
        for row in self:
            table.add_row(*(str(row[column]) for column in COLUMNS))
        return table

    def __str__(self):
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        return console.file.getvalue()

    __repr__ = __str__
