"""What a layer with a member axis refuses."""

from keras_multiweight.configs import differences, layer_config
from keras_multiweight.copies import all_layers


def check_options(cls, member, num_members, member_axis):
    if not isinstance(member, cls.member_class):
        raise ValueError(
            f"The members of a {cls.__name__} must be layers of class {cls.member_class.__name__}. "
            f"Received: a {type(member).__name__}."
        )
    if not isinstance(num_members, int) or num_members < 1:
        raise ValueError(f"num_members must be an int of at least 1. Received: num_members={num_members!r}.")
    if member_axis not in cls.member_axes:
        raise ValueError(f"member_axis of {cls.__name__} must be in {cls.member_axes}. Received: {member_axis}.")
    if any(getattr(x, "stateful", False) is True for x in all_layers(member)):
        raise ValueError(
            "A stateful recurrent layer cannot hold members: its states are no weights. "
            f"Received: '{member.name}' with stateful=True. Pass the states as inputs and outputs of the model."
        )
    if member.quantization_mode is not None or getattr(member, "lora_rank", None):
        raise ValueError(
            "A quantized or LoRA layer cannot hold members: its extra variables have no member axis. "
            f"Received: '{member.name}'. Pack the model before it is quantized, or merge its LoRA weights first."
        )


def check_settings(cls, settings, num_members):
    for key, values in (settings or {}).items():
        if key not in cls.settings_names or len(values) != num_members:
            raise ValueError(
                f"member_settings of {cls.__name__} must be a dict with keys of {cls.settings_names}, each with one value "
                f"for each of the {num_members} members. Received: {len(values)} values for {key!r}."
            )


def check_alike(layers, settings=()):
    if not layers:
        raise ValueError("from_member_layers needs at least one layer. Received: an empty list.")
    for i, layer in enumerate(layers):
        if not getattr(layer, "built", False):
            raise ValueError(f"The members must be built Keras layers. Received: {layer!r} as member {i}.")
        for key, expected, received in differences(*(_common_config(x, settings) for x in (layers[0], layer))):
            raise ValueError(
                "The members must have equal configs. "
                f"Received: {key}={expected!r} in member 0 and {key}={received!r} in member {i} ('{layer.name}')."
            )
        shapes = [tuple(w.shape) for w in layer.weights], [tuple(w.shape) for w in layers[0].weights]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The members must have equal weight shapes. Received: {shapes[1]} in member 0 and {shapes[0]} in "
                f"member {i} ('{layer.name}')."
            )


def _common_config(layer, settings):
    config = layer_config(layer)
    return {**config, "config": {key: value for key, value in config["config"].items() if key not in settings}}
