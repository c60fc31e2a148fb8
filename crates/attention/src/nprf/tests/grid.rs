use burn::tensor::Tensor;
use regard_testkit::{Sampler, assert_close, cpu, sweep};

use super::{Inputs, any_mask, assert_all_close, with_gradients};
use crate::nprf::{NprfAlgorithm, NprfOptions, nprf, nprf_grid, reference};

/// The table of a grid instead of that of a line, and three numbers of a class token behind it if there is one.
fn table(x: &Tensor<2>, rows: usize, columns: usize, class: bool) -> (Tensor<3>, Option<Tensor<2>>) {
    let h = x.dims()[0];
    let taps = (2 * rows - 1) * (2 * columns - 1);
    (x.clone().narrow(1, 0, taps).reshape([h, 2 * rows - 1, 2 * columns - 1]), class.then(|| x.clone().narrow(1, taps, 3)))
}

#[test]
fn both_algorithms_equal_the_definition_on_grids_with_gradients() {
    sweep("nprf_grid", 40, |s| {
        let (b, h, rows, columns, class) = (s.size(1, 2), s.size(1, 3), s.size(1, 7), s.size(1, 7), s.flip());
        let n = rows * columns + usize::from(class);
        let mut inputs = Inputs::draw(s, [b, h, n, s.size(1, 5), s.size(1, 5), s.size(1, 7)]);
        inputs.bias = s.tensor([h, (2 * rows - 1) * (2 * columns - 1) + 3], -2.0, 2.0).f64(&cpu());
        let key_mask = s.flip().then(|| any_mask(s, b, n));
        let normalised = s.flip();
        let want = with_gradients(&inputs, 1, |x| {
            let (bias, class) = table(&x.bias, rows, columns, class);
            let bias = reference::grid_bias_matrix(bias, class);
            let hidden = key_mask.clone().map(|m| m.reshape([b, 1, 1, n]).expand([b, h, n, n]));
            let (o, den) = reference::dense(x.q, x.k, x.v, x.projection, Some(bias), hidden, normalised);
            let blind = den.clone().equal_elem(0);
            (o, den.mask_fill(blind.clone(), 1.0).log().mask_fill(blind, f64::NEG_INFINITY))
        });
        for algorithm in [NprfAlgorithm::Dense, NprfAlgorithm::Fft] {
            let options = NprfOptions { algorithm, normalised, key_mask: key_mask.clone(), ..NprfOptions::default() };
            let run = |x: &Inputs| {
                with_gradients(x, 1, |x| {
                    let (bias, class) = table(&x.bias, rows, columns, class);
                    nprf_grid(x.q, x.k, x.v, x.projection, bias, class, &options).unwrap()
                })
            };
            assert_all_close(&format!("{algorithm:?} in f64"), &run(&inputs), &want, 1e-9);
            assert_all_close(&format!("{algorithm:?} in f32"), &run(&inputs.clone().f32()), &want, 3e-4);
        }
    });
}

#[test]
fn a_grid_of_one_row_is_a_line() {
    let mut s = Sampler::new(2);
    let x = Inputs::draw(&mut s, [2, 2, 11, 4, 3, 5]);
    let options = NprfOptions::default();
    let (line, _) = nprf(x.q.clone(), x.k.clone(), x.v.clone(), x.projection.clone(), Some(x.bias.clone()), &options).unwrap();
    for shape in [[2, 1, 21], [2, 21, 1]] {
        let (grid, _) =
            nprf_grid(x.q.clone(), x.k.clone(), x.v.clone(), x.projection.clone(), x.bias.clone().reshape(shape), None, &options).unwrap();
        assert_close("one row or column", &grid, &line, 1e-12);
    }
}
