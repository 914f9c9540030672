"""MemberParallel: the members of a packed model spread over several devices."""

import keras


class MemberParallel(keras.distribution.ModelParallel):
    """Puts each device's share of the members on it, for `keras.distribution.set_distribution`.

    Every weight with a member axis is cut along it; all else, and the data, is on all devices. The members never need
    each other's numbers, so that the devices meet only where outputs are averaged. Keras distributes models on JAX.

    Args:
        num_members: int, N. A multiple of the number of devices.
        devices: List of device names; all that `keras.distribution.list_devices()` gives, if left out.

    Raises:
        ValueError: N is not a multiple of the number of devices.

    Example:

    ```python
    keras.distribution.set_distribution(kmw.MemberParallel(num_members=32))  # before the model is made
    multi = kmw.replicate(build, 32)
    multi.compile("adam", "mse")
    multi.fit(x, y)
    ```
    """

    def __init__(self, num_members, devices=None):
        devices = list(devices or keras.distribution.list_devices())
        if num_members < 1 or num_members % len(devices):
            raise ValueError(
                "num_members must be a multiple of the number of devices. "
                f"Received: num_members={num_members} and {len(devices)} devices, {devices}."
            )
        mesh = keras.distribution.DeviceMesh((len(devices),), ["members"], devices)
        super().__init__(layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="members")
        self.num_members = num_members

    def get_data_layout(self, data_shape):
        """Data are on every device."""
        return self._layout([None] * len(data_shape))

    def get_variable_layout(self, variable):
        """Variables whose first axis holds the members, or the rows of all members, are cut along it."""
        shape = variable.shape
        first = ["members" if shape[0] and shape[0] % self.num_members == 0 else None] if len(shape) else []
        return self._layout([*first, *[None] * (len(shape) - 1)])

    def _layout(self, axes):
        return keras.distribution.TensorLayout(axes, self.device_mesh)
