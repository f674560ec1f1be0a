"""Float32 arithmetic with the same bits on every CPU: products that no compiler contracts, and tanh and sigmoid made of them.

IEEE 754 rounds +, -, x, / and the conversion of an integer correctly, so each of them has one result everywhere. What differs from
machine to machine is what compilers make of them: `a * b + c` becomes one fused multiply-add with one rounding instead of two (XLA:CPU
does it in some programs and not in others), and tanh and the logistic function are each backend's own approximation.

`times` keeps a product apart from what follows: the product's bits are combined by exclusive or with a zero that is an argument of the
program. No compiler knows that it is zero, so none can fuse through it; it costs an integer operation a value. `tanh` is a rational
function of x^2, evaluated by Horner's scheme out of such products; `sigmoid(x)` = 0.5 + 0.5 tanh(0.5 x), whose products with a power of
two are exact, so that contracting them changes nothing.

Not to be used: division by one number for many values, of which XLA makes a product with its reciprocal (whose last bit differs). Store
the reciprocal and multiply. Where both sides are arrays, as in `tanh`, it stays a division.

Not covered: subnormal results, which XLA:CPU flushes to zero and others keep, and NVIDIA GPUs, for which XLA asks LLVM for an approximate
division (-nvptx-prec-divf32=1, `div.full.f32`, up to 2 ulp): `tanh` there is not this one to the bit.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

# tanh(x) = x P(x^2) / Q(x^2) for |x| <= 9, where it rounds to 1; minimax of the relative error (2e-8 in real arithmetic), fitted by
# Lawson's weights on 4001 Chebyshev nodes. Constant first. In float32 the largest absolute error is 3.5e-7.
_LARGEST = 9.0
_NUMERATOR = (1.0, 0.13381020724773407, 0.0034955828450620174, 2.0608997147064656e-05, 1.3354545913557558e-08)
_DENOMINATOR = (1.0, 0.46714335680007935, 0.025876961648464203, 0.0003285626298747957, 7.776509960422118e-07)


def times(a: Float32[Array, "..."], b: Float32[Array, "..."], zero: Int32[Array, ""]) -> Float32[Array, "..."]:
    """a * b, rounded before anything is added to it. `zero`: an argument of the compiled program whose value is 0."""
    bits = jax.lax.bitcast_convert_type(a * b, jnp.int32)
    return jax.lax.bitcast_convert_type(bits ^ zero, jnp.float32)


def tanh(x: Float32[Array, "*shape"], zero: Int32[Array, ""]) -> Float32[Array, "*shape"]:
    """Hyperbolic tangent within 3.5e-7, in -1..1, odd."""
    held = jnp.clip(x, -_LARGEST, _LARGEST)
    square = times(held, held, zero)
    numerator, denominator = (_polynomial(square, terms, zero) for terms in (_NUMERATOR, _DENOMINATOR))
    return jnp.clip(times(held, numerator, zero) / denominator, -1.0, 1.0)


def sigmoid(x: Float32[Array, "*shape"], zero: Int32[Array, ""]) -> Float32[Array, "*shape"]:
    """Logistic function 1 / (1 + exp(-x)) within 2e-7, in 0..1."""
    return 0.5 + 0.5 * tanh(0.5 * x, zero)


def _polynomial(x: Float32[Array, "*shape"], terms: tuple[float, ...], zero: Int32[Array, ""]) -> Array:
    """terms[0] + terms[1] x + ..., by Horner's scheme."""
    start = jnp.full_like(x, terms[-1])
    return reduce(lambda sum, term: times(sum, x, zero) + jnp.float32(term), reversed(terms[:-1]), start)
