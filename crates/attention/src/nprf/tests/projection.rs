use burn::tensor::Tensor;
use regard_testkit::{assert_close, cpu};

use crate::nprf::{ProjectionKind, draw_projection};

const KINDS: [ProjectionKind; 3] = [ProjectionKind::Gaussian, ProjectionKind::Orthogonal, ProjectionKind::OrthogonalEqual];

#[test]
fn numbers_have_mean_0_and_variance_1() {
    for kind in KINDS {
        let w = draw_projection(kind, [4, 96, 32], 1, &cpu());
        let (mean, variance) = (w.clone().mean().into_scalar::<f32>(), w.square().mean().into_scalar::<f32>());
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.03, "{kind:?}: mean {mean}, variance {variance}");
    }
}

#[test]
fn rows_of_a_block_are_orthogonal() {
    for kind in [ProjectionKind::Orthogonal, ProjectionKind::OrthogonalEqual] {
        let w = draw_projection(kind, [2, 20, 8], 2, &cpu());
        for start in [0, 8, 16] {
            let block = w.clone().narrow(1, start, 8.min(20 - start));
            let products = block.clone().matmul(block.swap_dims(1, 2));
            let n = products.dims()[1];
            let diagonal = Tensor::<2>::eye(n, &cpu()).unsqueeze_dim::<3>(0) * products.clone();
            assert_close("off the diagonal", &(products.clone() - diagonal.clone() + 1.0), &products.ones_like(), 1e-5);
            if kind == ProjectionKind::OrthogonalEqual {
                let norms = diagonal.sum_dim(2);
                assert_close("norms", &norms, &(norms.ones_like() * 8.0), 1e-5);
            }
        }
    }
}

#[test]
fn a_seed_is_a_projection() {
    let draw = |seed| draw_projection(ProjectionKind::Orthogonal, [2, 6, 4], seed, &cpu()).into_data();
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

/// A projection is not saved with its model: another method of drawing would change every model that was trained.
#[test]
fn a_seed_stays_the_projection_that_it_was() {
    let first = draw_projection(ProjectionKind::Gaussian, [1, 2, 2], 7, &cpu()).into_data().iter::<f32>().collect::<Vec<_>>();
    assert_eq!(first, [-0.775_371_9, -1.383_421_8, 0.889_713, 0.359_779_06]);
}
