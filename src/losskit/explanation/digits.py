"""How a number is written."""

import math

# From here on a fixed number of decimals is longer than what it says.
_LARGE = 1e7


def number(value: complex, digits: int) -> str:
    """With so many decimals; scientific where these would leave fewer than two digits, or where it is large.

    **Example**:

    >>> number(1.10194, 4), number(0.00012345, 4), number(3, 4), number(float("-inf"), 4)
    ('1.1019', '1.234e-04', '3', '-∞')
    """
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, complex):
        sign = "-" if math.copysign(1.0, value.imag) < 0 else "+"
        return f"{number(value.real, digits)}{sign}{number(abs(value.imag), digits)}i"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    # A number that is not 0 is never shown as 0.0000.
    if value != 0 and not 10.0 ** -max(digits - 1, 1) <= abs(value) < _LARGE:
        return f"{value:.{max(digits - 1, 1)}e}"
    # No minus in front of a 0.
    return f"{value + 0.0:.{digits}f}"
