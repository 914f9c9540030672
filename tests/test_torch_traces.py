"""Programs of torch operations without their Python: what they leave out and write over must change no number."""

import keras
import pytest

torch = pytest.importorskip("torch")
if keras.backend.backend() != "torch":
    pytest.skip("traces are for the torch backend", allow_module_level=True)

from keras_multiweight.training.torch_traces import traced  # noqa: E402


def counts(x, y):
    """Changes a copy of a constant, and a part of another, in place."""
    start, parts = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    start.add_(x)
    parts[0].mul_(y)
    return start * 2, parts + start


def reads_again(x, y):
    """Results that are read by a later operation, by a view, or twice by one."""
    a, b = x + y, x * y
    flat = b.reshape(-1)
    c = torch.tanh(a) + a
    d = (x - y) * 3
    return c, torch.exp(b) + flat.reshape(b.shape), d.mul(d), a.detach() + 1, torch.sqrt(x * x) / (x * x + 1) > 0.2


def lists(x, y):
    """Lists of results, of which one is read again."""
    products = torch._foreach_mul([x, y], 2.0)
    sums = torch._foreach_add(products, 1.0)
    roots = torch._foreach_sqrt([x * x, y * y])
    torch._foreach_add_(roots, torch._foreach_div(sums, [y * y + 1, x * x + 1]))
    return *roots, products[1] + 0


def reads_a_number(x, y):
    """As Keras's SGD reads its learning rate."""
    total = x * 1
    torch._foreach_add_([total], [y], alpha=y[0] * 2)
    return (total,)


def there_and_back(x, kernel):
    """As Keras lays out an image, and a copy of what is changed afterwards."""
    y = torch.relu(x)
    copy = y.permute(0, 3, 1, 2).contiguous().clone(memory_format=torch.channels_last)
    z = torch.nn.functional.conv2d(copy, kernel.clone())
    x.mul_(2)
    own = x.permute(0, 3, 1, 2).clone(memory_format=torch.channels_last)
    x.add_(1)
    return z, torch.nn.functional.conv2d(own, kernel), y + 1


def test_images_are_not_laid_out_twice():
    given = torch.arange(60.0).reshape(1, 5, 4, 3) - 30, torch.arange(24.0).reshape(2, 3, 2, 2) / 24
    program = traced(there_and_back, tuple(t.clone() for t in given))
    for _ in range(2):
        one, other = ([t.clone() for t in given] for _ in range(2))
        for received, expected in zip(program(*one), there_and_back(*other), strict=True):
            assert torch.equal(received, expected)
        assert all(map(torch.equal, one, other))
    assert sum(node.kind() == "aten::clone" for node in program.graph.nodes()) == 1  # before what it is a copy of is changed


@pytest.mark.parametrize("function", [counts, reads_again, lists, reads_a_number])
def test_a_program_gives_at_every_call_what_the_function_gives(function):
    pair = torch.tensor([0.5, -2.0]), torch.tensor([3.0, 0.25])
    program = traced(function, tuple(t.clone() for t in pair))
    for arguments in (pair, pair[::-1]):
        given = [t.clone() for t in arguments]
        for received, expected in zip(program(*given), function(*arguments), strict=True):
            assert torch.equal(received, expected)
        assert all(map(torch.equal, given, arguments))


def test_memory_is_written_over_where_no_one_reads_it():
    program = traced(lambda x: (torch.sqrt(x * x) + 1,), (torch.ones(3),))
    operations = {node.kind() for node in program.graph.nodes()}
    assert {"aten::mul", "aten::sqrt_"} <= operations and not {"aten::detach", "aten::sqrt"} & operations
