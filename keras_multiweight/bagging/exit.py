"""The vote of many members, without asking all of them about every row. B rows, N members."""

import numpy as np
from keras import tree

from keras_multiweight.bagging.resampling import checked_count
from keras_multiweight.layers.aggregate import one_hot_choices


class VoteInBlocks:
    """The majority of the members' classes, asked block by block: a row whose vote can no longer change is done.

    Exactly the class that `EnsembleVote` gives; of classes with equally many votes the first.

    Args:
        multi: A MultiModel with one output: probabilities or logits of classes, or the probability of the second of two.
        block_size: int: how many members to ask at a time.

    Attributes:
        asked: `(B,)`, after `predict`: how many members were asked about each row.

    Example:

    ```python
    vote = kmw.bagging.VoteInBlocks(multi, block_size=10)
    vote.predict(x)  # (B,) classes
    vote.asked.mean()
    ```
    """

    def __init__(self, multi, block_size):
        members, size = range(multi.num_members), checked_count(block_size, "block_size")
        if len(multi.outputs) != 1 or len(multi.outputs[0].shape) != 3:
            shapes = [tuple(y.shape) for y in multi.outputs]
            raise ValueError(f"A vote is of one output (B, N, classes). Received: outputs of shape {shapes}.")
        self.num_members = len(members)
        self._blocks = [multi.select(members[at : at + size]) for at in members[::size]]

    def predict(self, x, batch_size=None):
        """The class of each row, `(B,)` int32."""
        rows = len(tree.flatten(x)[0])
        self.asked = np.zeros(rows, int)
        open_rows, votes = np.arange(rows), None
        for block in self._blocks:
            answers = block.predict(_padded(x, open_rows), batch_size=batch_size)[: len(open_rows)]
            found = np.asarray(one_hot_choices(answers)).sum(axis=1)
            votes = np.zeros((rows, found.shape[1]), int) if votes is None else votes
            votes[open_rows] += found.astype(int)
            self.asked[open_rows] += block.num_members
            open_rows = open_rows[~self._is_settled(votes[open_rows], self.num_members - self.asked[open_rows])]
            if not len(open_rows):
                break
        return votes.argmax(axis=1).astype("int32")

    @staticmethod
    def _is_settled(votes, remaining):
        """Whether no other class can win: not even with all the votes to come, a tie going to the first class."""
        first = votes.argmax(axis=1)
        own = np.take_along_axis(votes, first[:, None], axis=1)
        classes = np.arange(votes.shape[1])
        wins = own + (first[:, None] < classes) > votes + remaining[:, None]
        return (wins | (classes == first[:, None])).all(axis=1)


def _padded(x, rows):
    """Some rows, made a power of two of them, so that few shapes are compiled."""
    size = 1 << (len(rows) - 1).bit_length()
    padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
    return tree.map_structure(lambda array: np.asarray(array)[padded], x)
