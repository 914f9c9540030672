"""Arguments of a Keras layer that may differ from member to member: numbers that change no weight and no shape."""

from keras_multiweight.copies import build_by_plan, build_plan, copy_layer, draws_in_training


class OwnSettings:
    """The part of a `MultiLayer` that knows in which arguments the members differ, as in rates of dropout.

    A subclass names those that it can give each member in `settings_names`. Its `map_members` calls for each member a layer
    with the member's own; or it makes them weights, with the members along axis 0, and says `settings_are_weights`.
    """

    settings_names = ()
    settings_are_weights = False

    @property
    def member_settings(self):
        """The arguments of the member that differ from member to member, a dict of names to N values; or None."""
        return {key: list(values) for key, values in self._hidden.settings.items()} or None

    @classmethod
    def settings_in(cls, layers):
        """The arguments in which Keras layers differ that this class can give each member: a dict, or None."""
        found = {key: [layer.get_config()[key] for layer in layers] for key in cls.settings_names}
        return {key: values for key, values in found.items() if any(value != values[0] for value in values)} or None

    def templates(self):
        """What to call for each member: a list of one Keras layer for all, or of N, where they have own settings."""
        return self._hidden.templates

    def draws(self):
        """Whether a member draws random numbers in training."""
        return draws_in_training(self.template()) or any(any(values) for values in self._hidden.settings.values())

    def make_templates(self):
        """Make for each member a Keras layer with its settings, one object for those with equal settings."""
        settings = list(zip(*self._hidden.settings.values()))
        made = {own: copy_layer(self.template(), self.member_config(settings.index(own))) for own in settings}
        for layer in made.values():
            build_by_plan(layer, build_plan(self.template()))
        self._hidden.templates = [made[own] for own in settings] or [self.template()]
