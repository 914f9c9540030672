"""Which rule and lowering each layer of a packed model got."""

import io

from rich.console import Console
from rich.table import Table

COLUMNS = ("layer", "class", "rule", "packed", "lowering")


class Plan(list):
    """The plan of a packed model: a list of rows `{"layer", "class", "rule", "packed", "name", "lowering"}`, printed as a
    table. The lowering is empty where a layer has one way to compute; `name!` is one that the layer was told to take.

    Attributes:
        num_members: N.
        saved_bytes: What N separate models hold more, because each has its own copy of the weights that are shared here.
        tuned: What `MultiModel.tune` found, a list of `Tuned`.
    """

    def __init__(self, rows, num_members, saved_bytes=0, tuned=()):
        super().__init__(rows)
        self.num_members = num_members
        self.saved_bytes = saved_bytes
        self.tuned = list(tuned)

    def table(self):
        """The plan as a `rich` table."""
        table = Table(title=f"{self.num_members} members in one graph", caption="\n".join(self._notes()) or None)
        for column in COLUMNS:
            table.add_column(column)
        for row in self:
            table.add_row(*(str(row[column]) for column in COLUMNS))
        return table

    def _notes(self):
        if self.saved_bytes:
            yield f"What is shared is held and computed once: {self.saved_bytes / 1e6:.3g} MB saved."
        yield from map(str, self.tuned)

    def __str__(self):
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        return console.file.getvalue()

    __repr__ = __str__
