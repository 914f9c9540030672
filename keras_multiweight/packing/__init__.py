"""N models -> one -> N.

Read in the order of the data: `pack` (the flow), `graph` and `inputs` (models as graphs), `match` (are they one
computation?), `trace` (where the member axis is), `kinds` and `table` (a rule for each layer class), `weights` and `sharing`
(N sets of weights in one), `verify` (are the answers right?); `select` and `replicate` make MultiModels from MultiModels and
from nothing, `files` reads models from disk.
"""
