"""Span algebra against naive float64 loops on made-up gradients of known rank."""

import pytest
import torch
from torch import Tensor

from attacks.dager.span import Span, open_gate, sketch
from attacks.dager.spectrum import find_span, noise_levels
from defenses.quantize import to_levels

D = 97  # width; not round, and SPARE takes an eighth of it
K = 150  # columns of a gradient


def drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def made(count: int, columns: int = K, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return ``count`` inputs (n, D) and X^T dL/dY + noise, its largest entry 1: (D, columns)."""
    inputs = drawn(count, count, D)
    gradient = inputs.T @ drawn(1000 + count + columns, count, columns)
    gradient /= gradient.abs().max()
    return inputs, gradient + noise * gradient.std() * drawn(2000 + columns, D, columns)


def naive_distance(inputs: Tensor, vector: Tensor) -> float:
    """Return the sine of the angle to the span of the rows of ``inputs``, by least squares."""
    coefficients = torch.linalg.lstsq(inputs.T, vector[:, None], driver="gelsd").solution
    rest = vector - (inputs.T @ coefficients)[:, 0]
    return float(rest.norm() / vector.norm())


def test_distance_is_what_is_left_after_least_squares() -> None:
    inputs, gradient = made(17)
    span = find_span([gradient.float()])
    outside = drawn(5, 9, D)
    inside = drawn(6, 9, 17) @ inputs
    vectors = torch.cat([outside, inside, inside + 0.01 * outside, inputs])
    expected = torch.tensor([naive_distance(inputs, vector) for vector in vectors])
    assert expected[:9].min() > 0.5 and expected[9:18].max() < 1e-12  # both kinds are there
    torch.testing.assert_close(span.distance(vectors.float()), expected, rtol=0, atol=1e-6)
    shaped = span.distance(vectors.float().view(4, -1, D))
    assert torch.equal(shaped.flatten(), span.distance(vectors.float()))


def test_basis_and_complement_are_one_orthonormal_frame() -> None:
    span = find_span([made(17)[1].float()])
    frame = torch.cat([span.basis, span.complement], dim=1).double()
    assert (span.basis.shape, span.complement.shape) == ((D, 17), (D, D - 17))
    torch.testing.assert_close(frame.T @ frame, torch.eye(D).double(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("count", [2, 17, 40, 76])
def test_the_rank_is_the_number_of_inputs_at_every_scale(
    dtype: torch.dtype, scale: float, count: int
) -> None:
    inputs, gradient = made(count)
    span = find_span([(scale * gradient).to(dtype)])
    assert (span.rank, span.blurred) == (count, False)
    assert span.distance(inputs.float()).max() < 0.01  # all of them lie in it


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("columns", [D, K])
def test_one_input_has_rank_one(dtype: torch.dtype, scale: float, columns: int) -> None:
    # a square gradient of one input: what v alone says of a single token, when q's and k's are 0
    _, gradient = made(1, columns)
    span = find_span([(scale * gradient).to(dtype)])
    assert (span.rank, span.blurred) == (1, False)


@pytest.mark.parametrize("noise", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_the_expected_distance_is_the_measured_one(noise: float) -> None:
    inputs, gradient = made(17, noise=noise)
    span = find_span([gradient])
    assert (span.rank, span.blurred) == (17, False)
    ratio = span.distance(inputs.float()) / span.expected(inputs.float())
    assert ratio.max() < 1.4 and ratio.min() > 1 / 1.4  # the factor that its docstring states


def test_what_only_weak_directions_carry_is_expected_further_away() -> None:
    inputs = drawn(3, 12, D)
    strength = torch.logspace(0, -3, 12, dtype=torch.float64)
    gradient = inputs.T @ (strength[:, None] * drawn(4, 12, K)) + 1e-6 * drawn(5, D, K)
    span = find_span([gradient])
    assert span.rank == 12
    distances, expected = span.distance(inputs.float()), span.expected(inputs.float())
    assert expected[-1] > 100 * expected[0]
    assert ((distances / expected).max() < 2) and ((distances / expected).min() > 0.5)


def test_the_expected_distance_is_naive_first_order_perturbation() -> None:
    # ||E V S^-1 a|| of Wedin's theorem with the noise E at hand, averaged over draws of E
    inputs, gradient = made(9)
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    left, values, right = left[:, :9], values[:9], right[:9].T
    vector, sizes, guessed = inputs[0], [], []
    for seed in range(20):
        noise = 1e-5 * drawn(seed, D, K)
        turned = noise @ right @ ((left.T @ vector) / values)
        turned -= left @ (left.T @ turned)
        sizes.append((turned.norm() / vector.norm()).item())
        guessed.append(find_span([gradient + noise]).expected(vector.float()[None]).item())
    assert sum(guessed) / sum(sizes) == pytest.approx(1.0, abs=0.1)


def test_weights_are_weighed_by_their_own_noise() -> None:
    # input 0 shows in q alone, whose gradient is 1e-5 of v's: below v's float32 rounding
    inputs = drawn(3, 12, D)
    only_q, not_v = torch.ones(12, 1).double(), torch.ones(12, 1).double()
    not_v[0] = 0.0
    q = 1e-5 * (inputs.T @ (only_q * drawn(4, 12, K)))
    v = inputs.T @ (not_v * drawn(5, 12, K))
    span = find_span([q.float(), v.float()])
    assert (span.rank, span.blurred) == (12, False)
    assert span.distance(inputs.float()).max() < 1e-4
    assert find_span([v.float()]).rank == 11


@pytest.mark.parametrize("count", [5, 17, 40, 60])
def test_narrow_gradients_of_grouped_queries_count_too(count: int) -> None:
    inputs = drawn(count, count, D)
    widths = ((D, 1e-3), (24, 1e-3), (25, 1.0))  # q; k and v of a quarter of the heads
    parts = [
        (scale * inputs.T @ drawn(count + width, count, width)).float() for width, scale in widths
    ]
    span = find_span(parts)
    assert (span.rank, span.blurred) == (count, False)
    assert span.distance(inputs.float()).max() < 1e-5


@pytest.mark.parametrize("count", [2, 17])
def test_narrow_gradients_alone_will_do_while_inputs_are_few(count: int) -> None:
    inputs = drawn(count, count, D)
    parts = [(inputs.T @ drawn(count + width, count, width)).float() for width in (24, 25)]
    span = find_span(parts)
    assert (span.rank, span.blurred) == (count, False)
    assert span.complement.shape == (D, D - count)
    assert span.distance(inputs.float()).max() < 1e-5


@pytest.mark.parametrize("widths", [(K,), (K, K, K), (24, 25), (D, 24)])
def test_zeros_span_nothing(widths: tuple[int, ...]) -> None:
    span = find_span([torch.zeros(D, width) for width in widths])
    assert (span.rank, span.blurred) == (0, False)
    assert span.basis.shape == (D, 0) and span.complement.shape == (D, D)
    vectors = drawn(0, 7, D).float()
    torch.testing.assert_close(span.distance(vectors), torch.ones(7), rtol=0, atol=1e-6)


def test_a_gradient_of_zeros_beside_others_changes_nothing() -> None:
    _, gradient = made(17)
    alone = find_span([gradient.float()])
    beside = find_span([torch.zeros(D, K), gradient.float(), torch.zeros(D, 24)])
    assert (beside.rank, beside.blurred) == (17, False)
    vectors = drawn(1, 9, D).float()
    torch.testing.assert_close(beside.distance(vectors), alone.distance(vectors))


def inside(span: Span, vectors: Tensor) -> int:
    """Return how many of ``vectors`` a gate lets in; random vectors say what is far."""
    if not span.rank:
        return 0
    gate = open_gate(span, drawn(77, 512, D).float(), 100.0, 0.4)
    return int((gate.excess(vectors.float()) < 1.0).sum())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("widths", [(K, K, K), (K,), (D, D, D), (D,), (D, 24, 25)])
def test_pure_noise_spans_nothing_or_is_called_blurred(seed: int, widths: tuple[int, ...]) -> None:
    parts = [drawn(10 * seed + place, D, width).float() for place, width in enumerate(widths)]
    span = find_span(parts)
    assert span.rank == 0 or span.blurred
    assert inside(span, drawn(99, 1000, D)) == 0


@pytest.mark.parametrize("count", [D, 120, 300])
def test_too_many_inputs_span_nothing_or_are_called_blurred(count: int) -> None:
    _, gradient = made(count)
    span = find_span([gradient.float()])
    assert span.rank == 0 or span.blurred
    assert inside(span, drawn(99, 1000, D)) == 0


def test_a_gate_is_the_distance_over_each_vectors_own_threshold() -> None:
    inputs, gradient = made(17, noise=1e-3)
    span = find_span([gradient])
    gate = open_gate(span, drawn(77, 51, D).float(), 16.0, 0.4)
    away = sorted(naive_distance(span.basis.T.double(), vector) for vector in drawn(77, 51, D))[25]
    assert gate.outside == pytest.approx(away, abs=1e-5)  # the median of 51
    vectors = torch.cat([inputs, drawn(5, 9, D), inputs[:9] + 0.1 * drawn(5, 9, D)]).float()
    excesses = gate.excess(vectors)
    for vector, excess in zip(vectors.double(), excesses, strict=True):
        noise = span.basis.T.double() @ vector * span.noise.double()
        threshold = min(max(16.0 * (noise.norm() / vector.norm()).item(), 1e-4), away / 2)
        wanted = naive_distance(span.basis.T.double(), vector) / threshold
        assert excess.item() == pytest.approx(wanted, rel=1e-3)
    assert (excesses[:17] < 1).all() and (excesses[17:26] > 1).all()


def test_no_vector_has_a_wider_threshold_than_the_widest() -> None:
    _, gradient = made(17, noise=1e-3)
    span = find_span([gradient])
    gate = open_gate(span, drawn(77, 51, D).float(), 16.0, 0.4)
    vectors = torch.cat([drawn(5, 200, D).float(), span.basis.T])
    thresholds = span.distance(vectors) / gate.excess(vectors)
    assert thresholds.max() <= gate.widest * (1 + 1e-5)


def test_a_sketch_estimates_the_squared_distance_without_bias() -> None:
    inputs, gradient = made(17)
    span = find_span([gradient.float()])
    vectors = (inputs[:6] + 0.2 * drawn(5, 6, D)).float()
    squares = [
        sketch(span, torch.Generator().manual_seed(seed), 32).distance(vectors).square()
        for seed in range(300)
    ]
    ratio = torch.stack(squares).mean(0) / span.distance(vectors).square()
    # relative std of one estimate is sqrt(2 / 32) = 25 %, so 1.5 % of 300: 4 of those
    torch.testing.assert_close(ratio, torch.ones(6), rtol=0, atol=0.06)


def test_a_sketch_never_discards_what_is_inside() -> None:
    inputs, gradient = made(17)
    coarse = sketch(find_span([gradient.float()]), torch.Generator().manual_seed(0), 32)
    assert coarse.directions.shape == (D, 32)
    products = coarse.directions.T @ coarse.directions
    torch.testing.assert_close(products, torch.eye(32), rtol=0, atol=1e-5)
    assert coarse.distance(inputs.float()).max() < 1e-5


def test_a_sketch_of_a_small_complement_is_exact() -> None:
    span = find_span([made(76)[1].float()])  # 21 directions are left, fewer than a sketch has
    coarse = sketch(span, torch.Generator().manual_seed(0), 32)
    vectors = drawn(5, 9, D).float()
    torch.testing.assert_close(coarse.distance(vectors), span.distance(vectors), rtol=1e-5, atol=0)


def test_gradients_come_back_as_they_were() -> None:
    parts = [made(17)[1].float(), torch.zeros(D, 24), made(17, 24)[1].half()]
    kept = [part.clone() for part in parts]
    find_span(parts)
    assert all(torch.equal(part, other) for part, other in zip(parts, kept, strict=True))


def weak_to_strong(count: int, weakest: float) -> tuple[Tensor, Tensor]:
    """Return ``count`` inputs (n, D) and a gradient (D, 3 D), each of less weight than the last."""
    inputs, errors = drawn(count, count, D), drawn(1000 + count, count, 3 * D)
    strength = torch.logspace(0, torch.tensor(weakest).log10().item(), count, dtype=torch.float64)
    return inputs, inputs.T @ (strength[:, None] * errors)


def test_where_weak_inputs_drown_in_steps_what_noise_fills_is_not_kept() -> None:
    inputs, gradient = weak_to_strong(30, 1e-4)
    span = find_span([to_levels(gradient, 127, None).float()])
    assert span.blurred and not span.drifting
    assert 10 <= span.rank < 30 < span.basis.shape[1] < 60  # nearly all would be 73
    away = span.distance(drawn(5, 200, D).float())
    assert span.distance(inputs[:12].float()).max() < 0.5 * away.min()


def test_the_noise_of_steps_is_known_where_most_entries_became_zero() -> None:
    _, gradient = made(5)
    gradient[:, 20:] *= 1e-4  # all zeros once rounded: dimensions without any noise
    rounded = to_levels(gradient, 127, None)
    assert (rounded == 0).all(dim=0).sum() >= K - 20
    (level,) = noise_levels([rounded.float()])
    noise = torch.linalg.svdvals(rounded - gradient)
    assert 0.1 * noise[0] < level < 3.0 * noise[0]
    assert noise_levels([gradient.float()])[0] < 1e-3 * level  # not rounded
