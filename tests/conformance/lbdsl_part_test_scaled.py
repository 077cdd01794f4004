"""A linear map whose result is multiplied: the runtime of the storage kind `test_scaled`."""

from torch import nn


class ScaledLinear(nn.Linear):
    def __init__(self, linear, factor):
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias, self.factor = linear.weight, linear.bias, factor

    def forward(self, x):
        return self.factor * super().forward(x)


class TestScaledPart:
    FIELDS = ("factor",)

    def wrap(self, linear, part):
        return ScaledLinear(linear, part["factor"])


PART = TestScaledPart()
